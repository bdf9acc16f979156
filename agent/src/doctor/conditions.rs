//! The cheap ones of the doctor's checks as conditions of the Node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use plan::node::Emulation;
use serde_json::{Value, json};

use super::{Finding, checks, judge};
use crate::libvirt::Libvirt;

/// Looks after a Node's conditions.
#[derive(Debug)]
pub(crate) struct NodeConditions {
    data_dir: PathBuf,
    emulation: Emulation,
    /// Since when each has the status that it has.
    since: Mutex<BTreeMap<&'static str, (bool, Timestamp)>>,
}

/// What was found at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ObservedConditions {
    /// For the Node's status.
    pub(crate) conditions: Vec<Value>,
    /// Which of them are True. What they say beside that, such as how much room there is, changes all the time.
    pub(crate) good: Vec<&'static str>,
}

impl NodeConditions {
    pub(crate) fn new(data_dir: PathBuf, emulation: Emulation) -> Self {
        Self { data_dir, emulation, since: Mutex::default() }
    }

    /// Makes the checks. `answers`: whether libvirt does; one that does not is asked nothing.
    pub(crate) async fn observe(&self, libvirt: &Libvirt, answers: bool) -> ObservedConditions {
        let machine = async {
            if answers { checks::machine(libvirt, self.emulation).await } else { judge::silent(libvirt.uri()) }
        };
        let (machine, host_name) = tokio::join!(machine, checks::host_name());
        let mut observed = ObservedConditions::default();
        let now = Timestamp::now();
        for (name, finding) in [
            ("kubevirt.io/GuestsRunnable", machine),
            ("kubevirt.io/DiskSpace", checks::space(&self.data_dir)),
            ("kubevirt.io/HostNameResolves", host_name),
        ] {
            let is_good = matches!(finding, Finding::Good(_));
            let reason = if is_good { "CheckPassed" } else { "CheckFailed" };
            self.add(&mut observed, (name, is_good), reason, &finding.message(), now);
        }
        observed
    }

    fn add(
        &self,
        observed: &mut ObservedConditions,
        (name, is_good): (&'static str, bool),
        reason: &str,
        message: &str,
        now: Timestamp,
    ) {
        let mut known = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known.entry(name).or_insert((is_good, now));
        if last.0 != is_good {
            *last = (is_good, now);
        }
        let seconds = |at: Timestamp| Timestamp::from_second(at.as_second()).unwrap_or(at);
        observed.conditions.push(json!({
            "type": name, "status": if is_good { "True" } else { "False" }, "reason": reason, "message": message,
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(last.1),
        }));
        if is_good {
            observed.good.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_says_what_to_do_and_since_when() {
        let conditions = NodeConditions::new("/".into(), Emulation::Never);
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut all = ObservedConditions::default();
        for (is_good, second) in [(false, 100), (false, 160), (true, 220)] {
            conditions.add(&mut all, ("kubevirt.io/DiskSpace", is_good), "R", "0 MiB free; free some", at(second));
        }
        let [first, second, third] = all.conditions.as_slice() else { panic!("three were added") };
        assert_eq!((&first["status"], &first["message"]), (&json!("False"), &json!("0 MiB free; free some")));
        assert_eq!(second["lastTransitionTime"], json!(at(100)));
        assert_eq!((&third["status"], &third["lastTransitionTime"]), (&json!("True"), &json!(at(220))));
        assert_eq!(all.good, ["kubevirt.io/DiskSpace"]);
    }
}
