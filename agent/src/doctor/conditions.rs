//! The cheap ones of the doctor's checks as conditions of the Node.

use std::path::PathBuf;

use plan::node::Emulation;

use super::{Finding, checks, judge};
use crate::libvirt::Libvirt;

/// What a Node's conditions are found out from.
#[derive(Debug)]
pub(crate) struct NodeChecks {
    data_dir: PathBuf,
    emulation: Emulation,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeCheck {
    /// Type of the condition.
    pub(crate) condition: &'static str,
    /// Whether all is well.
    pub(crate) is_good: bool,
    /// What was seen, and what to do about it.
    pub(crate) message: String,
}

impl NodeChecks {
    pub(crate) fn new(data_dir: PathBuf, emulation: Emulation) -> Self {
        Self { data_dir, emulation }
    }

    /// Makes the checks. `answers`: whether libvirt does; one that does not is asked nothing.
    pub(crate) async fn make(&self, libvirt: &Libvirt, answers: bool) -> Vec<NodeCheck> {
        let machine = async {
            if answers { checks::machine(libvirt, self.emulation).await } else { judge::silent(libvirt.uri()) }
        };
        let (machine, host_name) = tokio::join!(machine, checks::host_name());
        let findings = [
            ("kubevirt.io/GuestsRunnable", machine),
            ("kubevirt.io/DiskSpace", checks::space(&self.data_dir)),
            ("kubevirt.io/HostNameResolves", host_name),
        ];
        let check = |(condition, finding): (&'static str, Finding)| NodeCheck {
            condition,
            is_good: matches!(finding, Finding::Good(_)),
            message: finding.message(),
        };
        findings.map(check).into()
    }
}
