//! From an OVM's template to a VM, and back: what of a running VM differs from the template.

use std::collections::BTreeMap;

use api::Quantity;
use api::names::{TEMPLATE_ANNOTATION, VM_FINALIZER};
use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine, VirtualMachineSpec};

use super::ovm::owner_reference;

/// The VM that an OVM asks for. Its name is the OVM's always: v0.5.0 let the template name it, and then lost it.
pub(super) fn make_vm(ovm: &OfflineVirtualMachine) -> VirtualMachine {
    let template = &ovm.spec.template;
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut vm = VirtualMachine::new(ovm.metadata.name.as_deref().unwrap_or_default(), template.spec.clone());
    vm.metadata.namespace.clone_from(&ovm.metadata.namespace);
    vm.metadata.labels = metadata.labels;
    vm.metadata.annotations = metadata.annotations;
    vm.metadata.annotations.get_or_insert_default().insert(TEMPLATE_ANNOTATION.to_owned(), template.fingerprint());
    vm.metadata.owner_references = Some(vec![owner_reference(ovm)]);
    vm.metadata.finalizers = Some(vec![VM_FINALIZER.to_owned()]);
    vm
}

/// S2: whether the VM was made from another template than the OVM has now. What others changed in the VM since does not count.
pub(super) fn is_outdated(ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> bool {
    let made_from = vm.metadata.annotations.as_ref().and_then(|all| all.get(TEMPLATE_ANNOTATION));
    made_from.is_some_and(|made_from| *made_from != ovm.spec.template.fingerprint())
}

/// Whether a restart would change the VM: another spec, or a label or annotation of the template that is missing or different. Labels that
/// others added to the VM do not count.
pub(super) fn differs(ovm: &OfflineVirtualMachine, vm: &VirtualMachine) -> bool {
    let template = &ovm.spec.template;
    let wanted = template.metadata.as_ref();
    let labels = wanted.and_then(|metadata| metadata.labels.as_ref());
    let annotations = wanted.and_then(|metadata| metadata.annotations.as_ref());
    !contains(vm.metadata.labels.as_ref(), labels)
        || !contains(vm.metadata.annotations.as_ref(), annotations)
        || (template.spec != vm.spec && canonical(&template.spec) != canonical(&vm.spec))
}

fn contains(all: Option<&BTreeMap<String, String>>, wanted: Option<&BTreeMap<String, String>>) -> bool {
    wanted.into_iter().flatten().all(|(key, value)| all.and_then(|all| all.get(key)) == Some(value))
}

/// The spec with every quantity in one spelling, and empty lists as absent ones.
fn canonical(spec: &VirtualMachineSpec) -> VirtualMachineSpec {
    let mut spec = spec.clone();
    if let Some(resources) = spec.domain.resources.as_mut() {
        for quantity in
            [&mut resources.requests, &mut resources.limits].into_iter().flatten().flat_map(BTreeMap::values_mut)
        {
            canonical_quantity(quantity);
        }
    }
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(disk) = volume.empty_disk.as_mut() {
            canonical_quantity(&mut disk.capacity);
        }
    }
    spec.volumes = spec.volumes.filter(|list| !list.is_empty());
    spec.domain.devices.disks = spec.domain.devices.disks.filter(|list| !list.is_empty());
    spec.tolerations = spec.tolerations.filter(|list| !list.is_empty());
    spec.node_selector = spec.node_selector.filter(|map| !map.is_empty());
    spec
}

fn canonical_quantity(quantity: &mut Quantity) {
    if let Ok(millis) = quantity.to_millis() {
        *quantity = Quantity(format!("{millis}m"));
    }
}
