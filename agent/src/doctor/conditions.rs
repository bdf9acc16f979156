//! The cheap ones of the doctor's checks as conditions of the Node, made anew with each of its reports.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use plan::node::Emulation;
use serde_json::{Value, json};

use super::{Finding, checks};
use crate::libvirt::Libvirt;

/// Looks after a Node's conditions.
#[derive(Debug)]
pub(crate) struct NodeConditions {
    data_dir: PathBuf,
    emulation: Emulation,
    /// Since when each has the status that it has.
    since: Mutex<BTreeMap<&'static str, (&'static str, Timestamp)>>,
}

impl NodeConditions {
    pub(crate) fn new(data_dir: PathBuf, emulation: Emulation) -> Self {
        Self { data_dir, emulation, since: Mutex::default() }
    }

    /// Makes the checks.
    pub(crate) async fn observe(&self, libvirt: &Libvirt) -> Vec<Value> {
        let (machine, host_name) = tokio::join!(checks::machine(libvirt, self.emulation), checks::host_name());
        let now = Timestamp::now();
        vec![
            self.condition("kubevirt.io/GuestsRunnable", &machine, now),
            self.condition("kubevirt.io/DiskSpace", &checks::space(&self.data_dir), now),
            self.condition("kubevirt.io/HostNameResolves", &host_name, now),
        ]
    }

    fn condition(&self, name: &'static str, finding: &Finding, now: Timestamp) -> Value {
        let (status, reason) = match finding {
            Finding::Good(_) => ("True", "CheckPassed"),
            Finding::Odd { .. } | Finding::Bad { .. } => ("False", "CheckFailed"),
        };
        let mut known = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known.entry(name).or_insert((status, now));
        if last.0 != status {
            *last = (status, now);
        }
        let seconds = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
        json!({
            "type": name, "status": status, "reason": reason, "message": finding.message(),
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(last.1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_says_what_to_do_and_since_when() {
        let conditions = NodeConditions::new("/".into(), Emulation::Never);
        let at = |second| Timestamp::from_second(second).unwrap();
        let bad = Finding::bad("0 MiB free", "free space there");
        let first = conditions.condition("kubevirt.io/DiskSpace", &bad, at(100));
        assert_eq!((&first["status"], &first["message"]), (&json!("False"), &json!("0 MiB free; free space there")));
        let second = conditions.condition("kubevirt.io/DiskSpace", &bad, at(160));
        assert_eq!(second["lastTransitionTime"], first["lastTransitionTime"]);
        let third = conditions.condition("kubevirt.io/DiskSpace", &Finding::good("all"), at(220));
        assert_eq!((&third["status"], &third["lastTransitionTime"]), (&json!("True"), &json!(at(220))));
    }
}
