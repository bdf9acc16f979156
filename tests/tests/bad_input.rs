//! What users and hosts get wrong: each is answered with one clear line, and leaves nothing half-made.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::libvirtd::why_unsupported;
use tests::machines::{machine_spec, offline_machine};
use tests::ports::free_address;
use tests::programs::{failure, program};
use tests::stack::{DEADLINE, NAMESPACE, Stack};
use tests::standalone::Standalone;
use tests::wait::wait_for;

tests::scenarios! {
    each_admission_rule_is_422_with_its_cause_and_field: Admission,
    kubectl_shows_the_causes: Admission,
    an_image_that_is_not_in_the_store_is_named_with_the_fix,
}

/// One broken field: what makes it broken, and the cause that is to come back. `P` stands for the path of the spec.
struct Broken {
    pointer: &'static str,
    value: Value,
    field: &'static str,
    message: &'static str,
}

fn broken(pointer: &'static str, value: Value, field: &'static str, message: &'static str) -> Broken {
    Broken { pointer, value, field, message }
}

/// Every rule of the wire contract, in its order.
fn rules() -> Vec<Broken> {
    let disk = |name: &str, volume: &str| json!({"name": name, "volumeName": volume, "disk": {}});
    let empty = |name: &str| json!({"name": name, "emptyDisk": {"capacity": "1Mi"}});
    let many = |count: usize| -> Value { (0..count).map(|i| empty(&format!("v{i}"))).collect() };
    let cloud_init = |source: Value| json!([{"name": "root", "cloudInitNoCloud": source}]);
    vec![
        broken(
            "/domain/devices/disks",
            (0..257).map(|i| disk(&format!("d{i}"), "root")).collect(),
            "P.domain.devices.disks",
            "P.domain.devices.disks list exceeds the 256 element limit in length",
        ),
        broken("/volumes", many(257), "P.volumes", "P.volumes list exceeds the 256 element limit in length"),
        broken(
            "/domain/devices/disks",
            json!([disk("a", "nope")]),
            "P.domain.devices.disks[0].volumeName",
            "P.domain.devices.disks[0].volumeName 'nope' not found.",
        ),
        broken(
            "/domain/devices/disks",
            json!([disk("a", "root"), disk("b", "root")]),
            "P.domain.devices.disks[1].volumeName",
            "P.domain.devices.disks[1] and P.domain.devices.disks[0] reference the same volumeName.",
        ),
        broken(
            "/domain/devices/disks",
            json!([{"name": "a", "volumeName": "root", "lun": {}}]),
            "P.domain.devices.disks[0].lun",
            "P.domain.devices.disks[0].lun can only be mapped to a PersistentVolumeClaim volume.",
        ),
        broken(
            "/domain/devices/disks",
            json!([disk("a", "root"), disk("a", "root")]),
            "P.domain.devices.disks[1].name",
            "P.domain.devices.disks[1] and P.domain.devices.disks[0] must not have the same Name.",
        ),
        broken(
            "/domain/devices/disks",
            json!([{"name": "a", "volumeName": "root", "disk": {}, "cdrom": {}}]),
            "P.domain.devices.disks[0]",
            "P.domain.devices.disks[0] can only have a single target type defined",
        ),
        broken(
            "/volumes",
            json!([empty("root"), empty("root")]),
            "P.volumes[1].name",
            "P.volumes[1] and P.volumes[0] must not have the same Name.",
        ),
        broken(
            "/volumes",
            json!([{"name": "root"}]),
            "P.volumes[0]",
            "P.volumes[0] must have exactly one source type set",
        ),
        broken(
            "/volumes",
            cloud_init(json!({"userDataBase64": "#"})),
            "P.volumes[0].cloudInitNoCloud.userDataBase64",
            "P.volumes[0].cloudInitNoCloud.userDataBase64 is not a valid base64 value.",
        ),
        broken(
            "/volumes",
            cloud_init(json!({"userData": "a", "userDataBase64": "YQ=="})),
            "P.volumes[0].cloudInitNoCloud",
            "P.volumes[0].cloudInitNoCloud must have one exactly one userdata source set.",
        ),
        broken(
            "/volumes",
            cloud_init(json!({"userData": "a".repeat(2049)})),
            "P.volumes[0].cloudInitNoCloud",
            "P.volumes[0].cloudInitNoCloud userdata exceeds 2048 byte limit",
        ),
    ]
}

fn each_admission_rule_is_422_with_its_cause_and_field(stack: &mut Stack) -> Result<()> {
    for (kind, plural, path) in [
        ("OfflineVirtualMachine", "offlinevirtualmachines", "spec.template.spec"),
        ("VirtualMachine", "virtualmachines", "spec"),
    ] {
        for rule in rules() {
            let mut spec = machine_spec("idle");
            *spec.pointer_mut(rule.pointer).context("the pointer is in the spec")? = rule.value;
            let spec =
                if kind == "VirtualMachine" { spec } else { json!({"running": false, "template": {"spec": spec}}) };
            let object =
                json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": kind, "metadata": {"name": "bad"}, "spec": spec});
            let collection = format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/{plural}");
            let (code, status) = stack.client.post(&collection, &object)?;
            let field = rule.field.replacen('P', path, 1);
            let message = rule.message.replace("P.", &format!("{path}."));
            let wanted = json!({"reason": "FieldValueInvalid", "field": field, "message": message});
            let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
            ensure!(code == 422 && causes.contains(&wanted), "{kind}: not {code} with {wanted}, but {status}");
        }
    }
    let missing = json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "metadata": {"name": "bad"}, "spec": {"running": false}});
    let (code, status) = stack
        .client
        .post(&format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/offlinevirtualmachines"), &missing)?;
    let cause = &status["details"]["causes"][0];
    ensure!(
        code == 422 && cause["field"] == "spec.template" && cause["reason"] == "FieldValueRequired",
        "without a template: {code} {status}"
    );
    let left = stack.client.kubectl(&["get", "ovm,vm", "-A"])?;
    ensure!(left.is_empty(), "a refused object was stored:\n{left}");
    Ok(())
}

fn kubectl_shows_the_causes(stack: &mut Stack) -> Result<()> {
    let mut object = offline_machine(NAMESPACE, "bad", "idle", false);
    object["spec"]["template"]["spec"]["volumes"][0]["name"] = json!("other");
    let said = stack.client.create(&object).err().context("it was taken")?.to_string();
    ensure!(
        said.contains("spec.template.spec.domain.devices.disks[0].volumeName 'root' not found."),
        "kubectl says {said}"
    );
    Ok(())
}

fn an_image_that_is_not_in_the_store_is_named_with_the_fix(stack: &mut Stack) -> Result<()> {
    stack.client.create(&offline_machine(NAMESPACE, "missing", "example.com/nobody/has:this", true))?;
    wait_for("the machine names the image and the fix", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "missing")?.context("there is no machine yet")?;
        let conditions = machine["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let synchronized = conditions.iter().find(|condition| condition["type"] == "Synchronized");
        let message = synchronized.and_then(|condition| condition["message"].as_str()).unwrap_or_default();
        let clear = message.contains("example.com/nobody/has:this") && message.contains("ovm-agent image import");
        ensure!(clear, "its conditions are {conditions:?}");
        Ok(())
    })?;
    ensure!(stack.domain_state(NAMESPACE, "missing")?.is_none(), "a domain was made without its disk");
    // The fix is enough: nobody has to delete and create anything.
    stack.import_sector("example.com/nobody/has:this", &IDLE)?;
    stack.wait_for_phase(NAMESPACE, "missing", "Running")?;
    Ok(())
}

/// Runs `ovm-standalone` where it cannot work, and returns the last line that it writes before it ends.
fn last_words(command: &mut Command) -> Result<String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    let ended = wait_for("it ends", Duration::from_secs(30), || child.try_wait()?.context("it still runs"));
    if ended.is_err() {
        child.kill().context("end it")?;
    }
    let output = child.wait_with_output().context("read what it said")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = ended.with_context(|| said.clone())?;
    ensure!(!status.success(), "it ended with success and said {said}");
    let last = said.lines().last().unwrap_or_default().to_owned();
    ensure!(!said.contains("panicked"), "it panicked: {said}");
    Ok(last)
}

/// A data directory in which nothing may be left but what the user put there.
fn scratch() -> Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("ovm-bad-input-").tempdir().context("make a directory")
}

#[test]
fn a_busy_port_is_named() -> Result<()> {
    let directory = scratch()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let last = last_words(&mut Standalone::command(&directory.path().join("data"), &address, "test:///default")?)?;
    ensure!(last.contains(&address) && last.contains("--listen"), "it says {last}");
    Ok(())
}

#[test]
fn a_libvirt_that_is_not_there_is_named() -> Result<()> {
    let directory = scratch()?;
    let socket = directory.path().join("no-such-socket");
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let last =
        last_words(&mut Standalone::command(&directory.path().join("data"), &free_address()?.to_string(), &uri)?)?;
    ensure!(last.contains(&uri) && last.contains("libvirtd"), "it says {last}");
    Ok(())
}

#[test]
fn a_data_directory_that_may_not_be_written_is_named() -> Result<()> {
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped("a_data_directory_that_may_not_be_written_is_named", &reason);
        return Ok(());
    }
    let directory = scratch()?;
    let data = directory.path().join("data");
    let mut command = Standalone::command(&data, &free_address()?.to_string(), "test:///default")?;
    // Nobody; the directory is root's. The program may be in a folder that is closed to nobody, so it is run as root would find it.
    command.uid(65534).gid(65534);
    let Ok(last) = last_words(&mut command) else {
        // The folder of the programs is closed to nobody.
        tests::programs::say_skipped(
            "a_data_directory_that_may_not_be_written_is_named",
            "the program cannot be run by another user here",
        );
        return Ok(());
    };
    ensure!(last.contains(&data.display().to_string()), "it says {last}");
    ensure!(last.contains("ermission denied"), "it says {last}");
    ensure!(!data.exists(), "a data directory is left");
    Ok(())
}

#[test]
fn a_broken_kubeconfig_is_named() -> Result<()> {
    let directory = scratch()?;
    let broken = directory.path().join("kubeconfig");
    fs::write(&broken, "clusters: [nonsense\n")?;
    let missing = directory.path().join("nowhere");
    for file in [&broken, &missing] {
        for (name, arguments) in [
            ("ovm-controller", vec![]),
            (
                "ovm-agent",
                vec![
                    "--node-name",
                    "a",
                    "--libvirt-uri",
                    "test:///default",
                    "--emulation",
                    "always",
                    "--data-dir",
                    "/nonexistent/ovm",
                ],
            ),
            ("virtctl", vec!["start", "a"]),
        ] {
            let mut command = Command::new(program(name)?);
            command.arg("--kubeconfig").arg(file).args(arguments);
            let last = last_words(&mut command).with_context(|| name.to_owned())?;
            ensure!(last.contains(&file.display().to_string()), "{name} says {last}");
        }
    }
    Ok(())
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_half_made() -> Result<()> {
    if let Some(reason) = why_unsupported() {
        tests::programs::say_skipped("a_full_disk_is_named_and_leaves_nothing_half_made", &reason);
        return Ok(());
    }
    let directory = scratch()?;
    let small = directory.path().join("small");
    fs::create_dir(&small)?;
    let mounted = Mounted::tmpfs(&small, "4m")?;
    let data = small.join("data");
    let disk = directory.path().join("disk.raw");
    // Of bytes that no format can leave out.
    let mut noise = vec![0_u8; 16 << 20];
    for (index, byte) in noise.iter_mut().enumerate() {
        *byte = u8::try_from((index.wrapping_mul(2_654_435_761) >> 13) & 0xFF).context("a byte")?;
    }
    fs::write(&disk, noise)?;
    let said = failure(
        Command::new(program("ovm-agent")?).args(["image", "import", "big"]).arg(&disk).arg("--data-dir").arg(&data),
    )?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.contains("full") && last.contains(&data.display().to_string()), "it says {said}");
    let left = bytes_below(&data)?;
    ensure!(left < 64 << 10, "{left} bytes are left of the import");
    drop(mounted);
    Ok(())
}

/// A file system of a test's own. Dropping it unmounts it.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path, size: &str) -> Result<Self> {
        tests::programs::output(
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size},mode=0711"), "tmpfs"]).arg(at),
        )?;
        Ok(Self(at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Err(error) = tests::programs::output(Command::new("umount").arg(self.0)) {
            eprintln!("{error:#}");
        }
    }
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            bail!("{} is a link", entry.path().display());
        }
        sum += if kind.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}
