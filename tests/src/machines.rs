//! Manifests that the suites create: small machines that boot in milliseconds.

use serde_json::{Value, json};

/// Enough for SeaBIOS and a boot sector.
const MEMORY: &str = "16M";

/// A virtual machine with one disk from an image, which is ended at once when it is to stop.
pub fn machine_spec(image: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "domain": {
            "resources": { "requests": { "memory": MEMORY } },
            "devices": { "disks": [{ "name": "root", "volumeName": "root", "disk": {} }] },
        },
        "volumes": [{ "name": "root", "registryDisk": { "image": image } }],
    })
}

/// An OfflineVirtualMachine with the machine of [`machine_spec`].
pub fn offline_machine(namespace: &str, name: &str, image: &str, running: bool) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1alpha1",
        "kind": "OfflineVirtualMachine",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "running": running, "template": { "metadata": { "labels": { "machine": name } }, "spec": machine_spec(image) } },
    })
}

/// A VirtualMachine that no OfflineVirtualMachine owns.
pub fn bare_machine(namespace: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "kubevirt.io/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": name, "namespace": namespace },
        "spec": machine_spec(image),
    })
}
