//! Every kind of volume and of disk that a guest can have beside its image and its claims: seeds, empty disks, CD-ROMs, floppies, LUNs, block devices.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::stat::{Mode, SFlag, major, minor, mknod, stat};
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::machines::{bare_machine, claim, claim_spec, machine_spec, offline_machine_of, volume};
use tests::programs::{output, say_skipped};
use tests::stack::{DEADLINE, NAMESPACE, Stack, uid};
use tests::wait::wait_for;

tests::scenarios! {
    user_data_comes_from_three_places_and_a_missing_secret_is_waited_for: UserData,
    drives_and_empty_disks_are_what_their_spec_says,
    one_block_device_has_one_guest_whatever_it_is_called,
}

/// A machine without an owner that has a disk of each of these kinds, on a volume each, after its first.
fn machine_with(name: &str, more: &[(Value, Value)]) -> Value {
    let mut spec = machine_spec("idle");
    for (index, (disk, volume)) in more.iter().enumerate() {
        let (mut disk, mut volume) = (disk.clone(), volume.clone());
        let own = format!("more-{index}");
        disk["name"] = json!(own);
        disk["volumeName"] = json!(own);
        volume["name"] = json!(own);
        spec["domain"]["devices"]["disks"].as_array_mut().expect("a list").push(disk);
        spec["volumes"].as_array_mut().expect("a list").push(volume);
    }
    let mut machine = bare_machine(NAMESPACE, name, "idle");
    machine["spec"] = spec;
    machine
}

/// The directory of a machine's own files.
fn files_of(stack: &Stack, name: &str) -> Result<PathBuf> {
    let machine = stack.machine(NAMESPACE, name)?.context("there is no such VirtualMachine")?;
    Ok(stack.server.data().join("vms").join(uid(&machine)))
}

fn user_data_comes_from_three_places_and_a_missing_secret_is_waited_for(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let seed = |source: Value| (json!({ "cdrom": {} }), json!({ "cloudInitNoCloud": source }));
    let kinds = [
        seed(json!({ "userData": "#first-seed" })),
        seed(json!({ "userDataBase64": "I3NlY29uZC1zZWVk" })),
        seed(json!({ "secretRef": { "name": "third" } })),
    ];
    stack.client.create(&machine_with("seeds", &kinds))?;
    let said = stack.wait_for_reason(NAMESPACE, "seeds", "SecretMissing")?;
    ensure!(
        said.contains("volume more-2") && said.contains("\"third\"") && said.contains("userdata"),
        "it says {said}"
    );
    let events = stack.events(NAMESPACE, "VirtualMachine", "seeds")?;
    ensure!(
        events.iter().any(|(reason, message)| reason == "SyncFailed" && *message == said),
        "its events are {events:?}"
    );
    // A Secret without the key is as good as none.
    stack.client.kubectl(&["create", "secret", "generic", "third", "--from-literal=other=#third-seed"])?;
    stack.wait_for_reason(NAMESPACE, "seeds", "SecretMissing")?;
    stack.client.kubectl(&["delete", "secret", "third"])?;
    stack.client.kubectl(&["create", "secret", "generic", "third", "--from-literal=userdata=#third-seed"])?;
    stack.wait_for_phase(NAMESPACE, "seeds", "Running")?;

    let directory = files_of(stack, "seeds")?;
    for (place, text) in [(1, "#first-seed"), (2, "#second-seed"), (3, "#third-seed")] {
        let path = directory.join(format!("seed-{place}.iso"));
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        ensure!(
            bytes.windows(text.len()).any(|window| window == text.as_bytes()),
            "{text} is not in {}",
            path.display()
        );
        let mode = fs::metadata(&path).context("look at the seed")?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
    }
    stack.client.kubectl(&["delete", "vm", "seeds"])?;
    stack.wait_until_gone(NAMESPACE, "seeds")?;
    ensure!(!directory.exists(), "its seeds are left");
    Ok(())
}

fn drives_and_empty_disks_are_what_their_spec_says(stack: &mut Stack) -> Result<()> {
    stack.import_sector("idle", &IDLE)?;
    let empty = |capacity: &str| json!({ "emptyDisk": { "capacity": capacity } });
    let kinds = [
        (json!({ "disk": { "bus": "virtio" } }), empty("5Mi")),
        (json!({ "disk": { "bus": "scsi", "readonly": true } }), empty("1000001")),
        (json!({ "cdrom": { "bus": "sata" } }), empty("1Mi")),
        (json!({ "cdrom": { "bus": "scsi", "tray": "open" } }), empty("1Mi")),
        (json!({ "floppy": {} }), empty("1440Ki")),
        (json!({ "floppy": { "readonly": true, "tray": "open" } }), empty("1440Ki")),
    ];
    stack.client.create(&machine_with("drives", &kinds))?;
    stack.wait_for_phase(NAMESPACE, "drives", "Running")?;
    let directory = files_of(stack, "drives")?;
    // Whole sectors, never less than asked for.
    for (place, bytes) in [(1, 5 << 20), (2, 1_000_448), (5, 1440 << 10)] {
        let file = directory.join(format!("empty-{place}.qcow2"));
        let info = output(Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(&file))?;
        let info: Value = serde_json::from_str(&info).context("read qemu-img's answer")?;
        ensure!(info["virtual-size"] == bytes, "{} has {} bytes, not {bytes}", file.display(), info["virtual-size"]);
    }
    let disk = |place: usize| {
        let path = format!("//disk[alias/@name='ua-disk-more-{place}']");
        stack.libvirtd.virsh(&["dumpxml", "default_drives", "--xpath", &path])
    };
    for (place, device, has, has_not) in [
        (1, "disk", "readonly", ""),
        (2, "cdrom", "readonly", "tray="),
        // An open tray is a drive without a medium.
        (3, "cdrom", "sdd", "<source"),
        (4, "floppy", "fda", "readonly"),
        (5, "floppy", "readonly", "<source"),
    ] {
        let xml = disk(place)?;
        let fits = xml.contains(&format!("device=\"{device}\"")) && xml.contains(has);
        ensure!(fits && (has_not.is_empty() || !xml.contains(has_not)), "disk more-{place} is {xml}");
    }
    Ok(())
}

/// A loop device over a file of its own. The file's end is its end.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn attach(file: &Path) -> Result<Self> {
        let name = output(Command::new("losetup").args(["--find", "--show"]).arg(file))?;
        Ok(Self(name.trim().into()))
    }

    /// Another name for the device.
    fn make_node(&self, path: &Path) -> Result<()> {
        let number = stat(&self.0).context("look at the loop device")?.st_rdev;
        ensure!(major(number) == 7, "{} is no loop device ({}:{})", self.0.display(), major(number), minor(number));
        mknod(path, SFlag::S_IFBLK, Mode::S_IRUSR | Mode::S_IWUSR, number).context("make a device node")
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _detached_with_its_last_user = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

fn one_block_device_has_one_guest_whatever_it_is_called(stack: &mut Stack) -> Result<()> {
    let file = stack.make_volume("behind-the-device", &IDLE)?;
    let device = match LoopDevice::attach(&file) {
        Ok(device) => device,
        Err(error) => {
            say_skipped("one_block_device_has_one_guest_whatever_it_is_called", &format!("no loop device: {error:#}"));
            return Ok(());
        }
    };
    // A volume that is the device, and one that is a directory with the device in it.
    let (direct, inside) = (stack.volume_root().join("direct"), stack.volume_root().join("inside"));
    device.make_node(&direct)?;
    fs::create_dir(&inside).context("make a directory")?;
    device.make_node(&inside.join("disk.img"))?;
    for (name, path) in [("direct", &direct), ("inside", &inside)] {
        stack.client.create(&volume(name, path, &["ReadWriteOnce"]))?;
        stack.client.create(&claim(NAMESPACE, name, name, &["ReadWriteOnce"]))?;
    }
    let machine = |name: &str, claim: &str| {
        let source = json!({ "persistentVolumeClaim": { "claimName": claim } });
        offline_machine_of(NAMESPACE, name, &claim_spec(&source, "virtio"), true)
    };
    stack.client.create(&machine("first", "direct"))?;
    stack.wait_for_phase(NAMESPACE, "first", "Running")?;
    let source = stack.libvirtd.virsh(&["dumpxml", "default_first", "--xpath", "//disk/source/@dev"])?;
    ensure!(source.contains(&direct.display().to_string()), "its disk is {source}");
    stack.client.create(&machine("second", "inside"))?;
    let said = stack.wait_for_reason(NAMESPACE, "second", "DiskInUse")?;
    ensure!(said.contains("inside/disk.img is in use by VirtualMachine default/first"), "it says {said}");
    stack.client.virtctl(&["stop", "first"])?;
    stack.wait_for_phase(NAMESPACE, "second", "Running")?;
    stack.client.virtctl(&["stop", "second"])?;
    stack.wait_until_gone(NAMESPACE, "second")?;

    // A loop device is no SCSI device: libvirt takes the definition, and QEMU says why it cannot be passed through.
    let mut lun = machine("lun", "direct");
    lun["spec"]["template"]["spec"]["domain"]["devices"]["disks"][0] =
        json!({ "name": "root", "volumeName": "root", "lun": {} });
    stack.client.create(&lun)?;
    wait_for("the LUN is defined", DEADLINE, || {
        let xml = stack.libvirtd.virsh(&["dumpxml", "default_lun", "--inactive", "--xpath", "//disk"])?;
        ensure!(xml.contains("device=\"lun\"") && xml.contains("type=\"block\""), "its disk is {xml}");
        Ok(())
    })?;
    wait_for("the machine says why it does not start", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "lun")?.context("there is no such VirtualMachine")?;
        let said = machine["status"]["conditions"].to_string();
        ensure!(said.contains("Synchronized") && said.to_lowercase().contains("scsi"), "its conditions are {said}");
        Ok(())
    })
}
