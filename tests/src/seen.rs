//! A Linux guest that prints all that it sees of its machine.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::console::Console;
use crate::machines::offline_machine;
use crate::stack::BOOT_DEADLINE;

/// What the demo guest runs at boot. The version in its SMBIOS is the machine type. A disk is named by where it sits and its size.
const PRINT: &str = "#!/bin/sh
{ echo ABI-BEGIN; cd /sys/class/dmi/id; cat product_uuid product_serial product_version;
for d in /sys/bus/pci/devices/*; do echo ${d##*/} $(cat $d/vendor $d/device); done; cat /sys/class/net/*/address;
for d in /sys/block/[vs]d*; do echo $(readlink $d) $(cat $d/size); done; echo ABI-END; } > /dev/console 2>&1
";

/// An OfflineVirtualMachine whose guest prints. Its root disk is the demo guest's, and the seed sits between others.
pub fn printing_machine(namespace: &str, name: &str, image: &str) -> Value {
    let mut ovm = offline_machine(namespace, name, image, false);
    let spec = &mut ovm["spec"]["template"]["spec"];
    spec["domain"]["resources"]["requests"]["memory"] = json!("64M");
    let more = disks(image, &["seed", "data"]);
    spec["domain"]["devices"]["disks"] = more["domain"]["devices"]["disks"].clone();
    spec["volumes"] = more["volumes"].clone();
    ovm
}

/// Disks and volumes of a spec: the root disk, and after it these, of which `seed` makes the guest print.
pub fn disks(image: &str, more: &[&str]) -> Value {
    let bus = json!({"bus": "virtio"});
    let mut disks = vec![json!({"name": "root", "volumeName": "root", "disk": bus})];
    let mut volumes = vec![json!({"name": "root", "registryDisk": {"image": image}})];
    for name in more {
        disks.push(json!({"name": name, "volumeName": name, "disk": bus}));
        volumes.push(match *name {
            "seed" => json!({"name": "seed", "cloudInitNoCloud": {"userData": PRINT}}),
            name => json!({"name": name, "emptyDisk": {"capacity": "2Mi"}}),
        });
    }
    json!({"domain": {"devices": {"disks": disks}}, "volumes": volumes})
}

/// What the guest prints: firmware UUID, serial number and machine type, a line a PCI device, hardware addresses, a line a disk in their order.
///
/// # Errors
/// When it does not, in time.
pub fn printed(console: &mut Console) -> Result<String> {
    console.expect("ABI-BEGIN", BOOT_DEADLINE)?;
    let text = console.expect("ABI-END", BOOT_DEADLINE)?;
    ensure!(text.contains("pc-q35-") && text.contains("0000:00:1f.2"), "the guest prints {text}");
    Ok(text)
}
