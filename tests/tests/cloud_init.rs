//! Debian's cloud-init, in a guest, takes what `cloudInitNoCloud` gives it. Emulated: it takes most of a minute on a quiet machine.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::libvirtd::why_unsupported;
use tests::machines::offline_machine;
use tests::programs::{cloud_guest_disk, say_skipped};
use tests::stack::{NAMESPACE, Stack};

/// For cloud-init's four stages under emulation, on a machine that does much else.
const CLOUD_DEADLINE: Duration = Duration::from_mins(8);
/// Python and what cloud-init imports.
const MEMORY: &str = "192Mi";

/// Says on the console what cloud-init has made of the rest: of this guest's own name, of the user, and of the key.
const USER_DATA: &str = r#"#cloud-config
users:
- name: tester
  shell: /bin/bash
  ssh_authorized_keys:
  - ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOvmKeyOfThisTest tester@suite
runcmd:
- echo "host=$(hostname) shell=$(getent passwd tester | cut -d ':' -f 7) keys=$(cut -d ' ' -f 2 /home/tester/.ssh/authorized_keys) owner=$(stat -c '%U %a' /home/tester/.ssh/authorized_keys)" > /dev/ttyS0
"#;

#[test]
fn debians_cloud_init_takes_host_name_user_and_key_from_a_secret() -> Result<()> {
    const NAME: &str = "debians_cloud_init_takes_host_name_user_and_key_from_a_secret";
    if let Some(reason) = why_unsupported() {
        say_skipped(NAME, &reason);
        return Ok(());
    }
    let stack = Stack::start()?;
    stack.import("cloud", &cloud_guest_disk()?)?;
    stack.client.kubectl(&["create", "secret", "generic", "seed", &format!("--from-literal=userdata={USER_DATA}")])?;
    let mut machine = offline_machine(NAMESPACE, "named-by-its-object", "cloud", true);
    let spec = &mut machine["spec"]["template"]["spec"];
    spec["domain"]["resources"]["requests"]["memory"] = json!(MEMORY);
    spec["domain"]["devices"]["disks"] = json!([
        { "name": "root", "volumeName": "root", "disk": { "bus": "virtio" } },
        { "name": "seed", "volumeName": "seed", "cdrom": {} },
    ]);
    spec["volumes"].as_array_mut().context("there are volumes")?.push(json!({
        "name": "seed",
        "cloudInitNoCloud": { "secretRef": { "name": "seed" } },
    }));
    stack.client.create(&machine)?;
    stack.wait_for_phase(NAMESPACE, "named-by-its-object", "Running")?;
    let mut console = stack.console(NAMESPACE, "named-by-its-object")?;
    let seen = console.expect("cloud guest: status", CLOUD_DEADLINE)?;
    let report =
        "host=named-by-its-object shell=/bin/bash keys=AAAAC3NzaC1lZDI1NTE5AAAAIOvmKeyOfThisTest owner=tester 600";
    ensure!(seen.contains(report), "cloud-init made something else of it:\n{seen}");
    Ok(())
}
