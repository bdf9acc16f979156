//! Where the words of a Secret are found while its guest runs: in the guest's seed, in the server's own store, and nowhere else.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tests::boot_sector::IDLE;
use tests::machines::bare_machine;
use tests::programs::say_skipped;
use tests::registry::{DockerRegistry, Options, PASSWORD, TestImage, USER, why_unavailable};
use tests::stack::{DEADLINE, NAMESPACE, Stack, uid};
use tests::wait::wait_for;

tests::scenarios! {
    words_of_secrets_are_found_where_they_are_used_and_nowhere_else: UserData,
}

const USER_DATA: &str = "#canary-of-the-user-data-5e1f";
/// `user data` as kubectl and a Secret show it.
const USER_DATA_BASE64: &str = "I2NhbmFyeS1vZi10aGUtdXNlci1kYXRhLTVlMWY=";
const WRONG_PASSWORD: &str = "canary-of-a-wrong-password-90ab";
/// What may hold an object's text. Secrets themselves are not asked for.
const KINDS: &str =
    "ovm,vm,events,nodes,configmaps,controllerrevisions.apps,leases,persistentvolumes,persistentvolumeclaims";

/// The embedded API server's own store, and its log beside it.
const STORE: &str = "store.db";

/// A machine whose image wants a password, with a seed from Secret `userdata`.
fn machine(name: &str, image: &str, pull_secret: &str) -> Value {
    let mut machine = bare_machine(NAMESPACE, name, image);
    machine["spec"]["volumes"] = json!([
        { "name": "root", "registryDisk": { "image": image, "imagePullSecret": pull_secret } },
        { "name": "seed", "cloudInitNoCloud": { "secretRef": { "name": "userdata" } } },
    ]);
    let disks = json!([
        { "name": "root", "volumeName": "root", "disk": {} },
        { "name": "seed", "volumeName": "seed", "cdrom": {} },
    ]);
    machine["spec"]["domain"]["devices"]["disks"] = disks;
    machine
}

fn secret(name: &str, kind: &str, data: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "type": kind,
        "stringData": data,
    })
}

/// All regular files below a directory; what goes away meanwhile is not there.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
}

fn contains(bytes: &[u8], word: &str) -> bool {
    bytes.windows(word.len()).any(|window| window == word.as_bytes())
}

/// No text has one of the words.
fn ensure_silent(what: &str, text: &[u8], words: &[&str]) -> Result<()> {
    let found: Vec<_> = words.iter().filter(|word| contains(text, word)).collect();
    ensure!(found.is_empty(), "{what} has {found:?}");
    Ok(())
}

fn words_of_secrets_are_found_where_they_are_used_and_nowhere_else(stack: &mut Stack) -> Result<()> {
    if let Some(reason) = why_unavailable() {
        say_skipped("words of secrets", &reason);
        return Ok(());
    }
    let directory = stack.scratch("registry");
    let registry = DockerRegistry::start(&directory, Options { password: true, ..Options::default() })?;
    let mut disk = IDLE.to_vec();
    disk.resize(1 << 20, 0);
    registry.push("team/private:1", &TestImage::of_disk("guest.img", &disk)?)?;
    let image = registry.image("team/private:1");
    for (name, password) in [("right", PASSWORD), ("wrong", WRONG_PASSWORD)] {
        let auths = json!({ "auths": { registry.host(): { "username": USER, "password": password } } });
        let data = json!({ ".dockerconfigjson": auths.to_string() });
        stack.client.create(&secret(name, "kubernetes.io/dockerconfigjson", &data))?;
    }
    stack.client.create(&secret("userdata", "Opaque", &json!({ "userdata": USER_DATA })))?;

    stack.client.create(&machine("runs", &image, "right"))?;
    stack.wait_for_phase(NAMESPACE, "runs", "Running")?;
    stack.client.create(&machine("denied", &image, "wrong"))?;
    wait_for("the registry's refusal is told", DEADLINE, || {
        let machine = stack.machine(NAMESPACE, "denied")?.context("there is no such VirtualMachine")?;
        let status = machine["status"].to_string();
        ensure!(status.contains("ErrImageDenied"), "its status is {status}");
        Ok(())
    })?;

    let [right, wrong] = [PASSWORD, WRONG_PASSWORD].map(|password| STANDARD.encode(format!("{USER}:{password}")));
    let words = [USER_DATA, USER_DATA_BASE64, PASSWORD, WRONG_PASSWORD, &right, &wrong];
    ensure_silent("an object", stack.client.kubectl(&["get", KINDS, "-A", "-o", "json"])?.as_bytes(), &words)?;
    let domain = format!("{NAMESPACE}_runs");
    for state in [&[][..], &["--inactive"], &["--security-info"]] {
        let xml = stack.libvirtd.virsh(&[&["dumpxml", &domain], state].concat())?;
        ensure_silent("the domain's XML", xml.as_bytes(), &words)?;
    }
    let mut arguments = 0;
    for process in fs::read_dir("/proc").context("list processes")?.flatten() {
        // A test beside this one may speak to its registry by curl. A process that ended has no arguments.
        let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        if !["ovm-", "qemu", "libvirt", "virtlog"].iter().any(|ours| name.starts_with(ours)) {
            continue;
        }
        let Ok(line) = fs::read(process.path().join("cmdline")) else { continue };
        arguments += usize::from(contains(&line, &format!("guest={domain}")));
        ensure_silent(&format!("the command line of {}", process.path().display()), &line, &words)?;
    }
    ensure!(arguments > 0, "the guest's QEMU is not among the processes");

    let machine = stack.wait_for_phase(NAMESPACE, "runs", "Running")?;
    let seed = stack.server.data().join("vms").join(uid(&machine)).join("seed-1.iso");
    let (mut all, mut seeds) = (Vec::new(), 0);
    files(stack.libvirtd.directory(), &mut all);
    for file in all.iter().filter(|file| !file.starts_with(&directory)) {
        let (Ok(bytes), Ok(metadata)) = (fs::read(file), fs::metadata(file)) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if *file == seed {
            ensure!(contains(&bytes, USER_DATA) && mode == 0o600, "the seed has mode {mode:o}");
            ensure_silent("the seed", &bytes, &[PASSWORD, WRONG_PASSWORD])?;
            seeds += 1;
        } else if file.parent() == Some(stack.server.data()) && name.starts_with(STORE) {
            ensure!(mode == 0o600, "{} has mode {mode:o}", file.display());
        } else {
            ensure_silent(&file.display().to_string(), &bytes, &words)?;
        }
    }
    ensure!(seeds == 1, "there is no {} among {} files", seed.display(), all.len());
    ensure_silent("what our programs say", stack.server.log().as_bytes(), &words)?;
    stack.client.kubectl(&["delete", "vm", "runs", "denied"])?;
    stack.wait_until_gone(NAMESPACE, "runs")?;
    ensure!(!seed.exists(), "the seed is left");
    Ok(())
}
