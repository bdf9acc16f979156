//! The guest ABI on its node: which machine type a guest gets, and when its VM may go (R3).

use api::abi::record_name;
use api::v1alpha1::AbiStatus;

use super::{GuestKey, OvmView, VmFacts};

/// What the gate of R3 says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// What was published is recorded, or nobody is to record it.
    Open,
    /// Nobody answered.
    Unread,
    /// Not yet. The text says what it waits for.
    Closed(String),
}

/// R3: the VM goes only once its OVM names the record of what was published. `ovm` was read uncached.
pub(super) fn gate(vm: &VmFacts, ovm: &OvmView) -> Gate {
    let published = vm.status.abi.as_ref().filter(|abi| abi.hash.is_some());
    let (Some(published), Some(owner)) = (published, vm.owner.as_deref()) else { return Gate::Open };
    match ovm {
        OvmView::Unknown => Gate::Unread,
        OvmView::Absent => Gate::Open,
        OvmView::Present(ovm) if ovm.uid != owner => Gate::Open,
        // A namespace that is being deleted deletes its OVMs, and takes no new record.
        OvmView::Present(ovm) if ovm.deleting && !ovm.orphaning => Gate::Open,
        OvmView::Present(ovm) if published.is_recorded_in(ovm.abi.as_ref()) => Gate::Open,
        OvmView::Present(_) => Gate::Closed("waiting for the controller to record the guest's ABI".to_owned()),
    }
}

/// Which machine type a guest gets: the template's where the user names a version or another machine than the recorded one, else the recorded one.
///
/// `resolved` is what this node's libvirt makes of the template's. An alias such as `q35` says which machine, not which version of it.
pub fn choose_machine_type<'a>(
    template: Option<&'a str>,
    resolved: Option<&str>,
    recorded: Option<&'a str>,
) -> Option<&'a str> {
    let (Some(named), Some(known)) = (template, recorded) else { return recorded.or(template) };
    let is_alias_of_known =
        resolved.is_some_and(|resolved| resolved != named && machine_family(resolved) == machine_family(known));
    if is_alias_of_known { Some(known) } else { Some(named) }
}

/// What of a machine type is not its version: `pc-q35` of `pc-q35-10.0`.
pub fn machine_family(machine_type: &str) -> &str {
    machine_type.rsplit_once('-').map_or(machine_type, |(family, _)| family)
}

/// What a user is told whose guest's recorded machine type this node does not have.
pub fn machine_type_gone(key: &GuestKey, node: &str, abi: &AbiStatus, why: &str) -> String {
    let machine = abi.machine_type.as_deref().unwrap_or_default();
    let record = abi
        .revision
        .map_or_else(|| "the VirtualMachine".to_owned(), |number| format!("record {}", record_name(&key.name, number)));
    format!(
        "machine type {machine} of {record} is not offered on node {node} ({why}): install a QEMU there that has it; or, once another node has it, \
         restart the guest; or give up the guest's ABI with `virtctl abi reset {}` and restart it",
        key.name
    )
}

#[cfg(test)]
mod tests {
    use api::v1alpha1::VirtualMachineStatus;

    use super::super::OvmFacts;
    use super::*;

    #[test]
    fn i4_the_recorded_machine_type_stands_unless_the_user_names_another() {
        let (old, new) = (Some("pc-q35-9.2"), "pc-q35-10.0");
        for (template, resolved, recorded, expected) in [
            (None, None, None, None),
            (None, None, old, old),
            (Some("q35"), Some(new), None, Some("q35")),
            (Some("q35"), Some(new), old, old),
            (Some("pc-q35-9.2"), Some("pc-q35-9.2"), old, old),
            (Some(new), Some(new), old, Some(new)),
            (Some("pc"), Some("pc-i440fx-10.0"), old, Some("pc")),
            (Some("pc-q35-11.0"), None, old, Some("pc-q35-11.0")),
        ] {
            assert_eq!(
                choose_machine_type(template, resolved, recorded),
                expected,
                "{template:?} {resolved:?} {recorded:?}"
            );
        }
    }

    fn abi(revision: i64, hash: &str) -> AbiStatus {
        AbiStatus { revision: Some(revision), hash: Some(hash.to_owned()), ..AbiStatus::default() }
    }

    #[test]
    fn r3_what_opens_the_gate() {
        let vm = |owner: Option<&str>, abi: Option<AbiStatus>| VmFacts {
            uid: "vm".to_owned(),
            resource_version: "1".to_owned(),
            deleting: true,
            has_finalizer: true,
            node_label: None,
            owner: owner.map(str::to_owned),
            grace: std::time::Duration::ZERO,
            status: VirtualMachineStatus { abi, ..VirtualMachineStatus::default() },
        };
        let ovm = |abi: Option<AbiStatus>| OvmFacts {
            uid: "ovm".to_owned(),
            resource_version: "1".to_owned(),
            placement: None,
            abi,
            deleting: false,
            orphaning: false,
        };
        let ours = vm(Some("ovm"), Some(abi(3, "new")));
        let waiting = ovm(Some(abi(3, "old")));
        assert!(matches!(gate(&ours, &OvmView::Present(waiting.clone())), Gate::Closed(_)));
        assert!(matches!(gate(&ours, &OvmView::Present(ovm(None))), Gate::Closed(_)));
        assert_eq!(gate(&ours, &OvmView::Unknown), Gate::Unread);
        let orphaning = OvmFacts { deleting: true, orphaning: true, ..waiting.clone() };
        assert!(matches!(gate(&ours, &OvmView::Present(orphaning)), Gate::Closed(_)));
        for (vm, view) in [
            (&ours, OvmView::Present(ovm(Some(abi(4, "new"))))),
            (&ours, OvmView::Absent),
            (&ours, OvmView::Present(OvmFacts { uid: "another".to_owned(), ..waiting.clone() })),
            (&ours, OvmView::Present(OvmFacts { deleting: true, ..waiting.clone() })),
            (&vm(None, Some(abi(3, "new"))), OvmView::Present(waiting.clone())),
            (&vm(Some("ovm"), None), OvmView::Present(waiting.clone())),
            (&vm(Some("ovm"), Some(AbiStatus::default())), OvmView::Unknown),
        ] {
            assert_eq!(gate(vm, &view), Gate::Open, "{view:?}");
        }
    }

    #[test]
    fn a_machine_type_that_is_gone_names_record_node_and_remedy() {
        let key = GuestKey { namespace: "ns".to_owned(), name: "vm".to_owned() };
        let recorded = AbiStatus { machine_type: Some("pc-q35-9.2".to_owned()), ..abi(3, "h") };
        let text = machine_type_gone(&key, "n1", &recorded, "unsupported");
        for part in ["pc-q35-9.2", "vm-abi-3", "n1", "virtctl abi reset vm"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
