//! `ovm-agent image pull` against registries that mean harm, or are just bad: what is refused, and what is left on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tests::programs::{failure, output, program, say_skipped};
use tests::registry::{
    DockerRegistry, HostileRegistry, Options, Reply, TestImage, blob_path, digest, gzip, tar_with, why_unavailable,
    zstd,
};

const LIMIT: &str = "8Mi";

/// A store, and the program that pulls into it.
struct Store {
    directory: tempfile::TempDir,
}

impl Store {
    fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir().context("make a directory")? })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(program("ovm-agent")?);
        command.arg("image").args(arguments).arg("--data-dir").arg(self.data());
        command.args(["--image-size-limit", LIMIT]);
        Ok(command)
    }

    fn pull(&self, image: &str) -> Result<String> {
        output(&mut self.command(&["pull", image])?)
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Files in a directory of the store.
    fn files(&self, directory: &str) -> Result<Vec<PathBuf>> {
        let path = self.data().join("images").join(directory);
        let entries = fs::read_dir(&path).with_context(|| format!("list {}", path.display()))?;
        entries.map(|entry| Ok(entry?.path())).collect()
    }

    /// Every disk file is what its name says.
    fn check_whole(&self) -> Result<usize> {
        let files = self.files("blobs")?;
        for file in &files {
            let name = file.file_name().and_then(|name| name.to_str()).context("a name")?;
            let expected = digest(&fs::read(file)?).replace(':', "-");
            ensure!(name.starts_with(&expected), "{} holds {expected}", file.display());
        }
        Ok(files.len())
    }
}

fn disk(byte: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| byte.wrapping_add(u8::try_from(at % 251).unwrap_or_default())).collect()
}

/// An image of one layer that is served as it is.
fn image_of(layer: Vec<u8>) -> TestImage {
    TestImage::new(vec![(layer, "application/vnd.oci.image.layer.v1.tar")], &[])
}

fn tar_entry(name: &str, kind: tar::EntryType, link: Option<&str>, content: &[u8]) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    if let Some(link) = link {
        header.set_link_name(link)?;
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    Ok(bytes)
}

/// A name, what is served under it, and words of the refusal.
type Row = (&'static str, TestImage, &'static str);

fn layer_rows() -> Result<Vec<Row>> {
    let good = || tar_entry("disk/a.img", tar::EntryType::Regular, None, b"good");
    let backed = qcow2(&["-u", "-b", "/etc/shadow", "-F", "raw"], "1M")?;
    let huge = qcow2(&[], "1T")?;
    let raw_as_qcow2 = tar_with(&[("disk/a.qcow2", &disk(1, 4096))])?;
    let file = |name: &str, bytes: &[u8]| tar_with(&[(name, bytes)]).map(image_of);
    let link = |kind| tar_entry("disk/a.img", kind, Some("/etc/shadow"), b"").map(image_of);
    let pax = tar_entry("pax", tar::EntryType::XHeader, None, b"19 path=etc/passwd\n")?;
    let zeros = vec![0; 16 << 20];
    let mut artifact = TestImage::new(vec![(gzip(&zeros)?, "application/octet-stream")], &[]);
    artifact.manifest["config"]["mediaType"] = json!("application/vnd.unknown.config.v1+json");
    let mut wrong_diff_id = TestImage::of_disk("a.img", &disk(1, 4096))?;
    wrong_diff_id = TestImage::new(
        vec![(wrong_diff_id.blobs[1].clone(), "application/vnd.oci.image.layer.v1.tar+gzip")],
        &[digest(b"another layer")],
    );
    Ok(vec![
        ("path", image_of(tar_entry("disk/../../etc/a.img", tar::EntryType::Regular, None, b"x")?), "leads elsewhere"),
        ("symlink", link(tar::EntryType::Symlink)?, "a symbolic link"),
        ("hardlink", link(tar::EntryType::Link)?, "a hard link"),
        ("device", link(tar::EntryType::Block)?, "a block device"),
        ("fifo", link(tar::EntryType::Fifo)?, "a fifo"),
        ("sparse", image_of(tar_entry("disk/a.img", tar::EntryType::GNUSparse, None, b"x")?), "sparse"),
        ("pax", image_of([pax, good()?].concat()), "two headers that disagree"),
        ("twice", image_of([good()?, good()?].concat()), "more than one disk"),
        ("no-disk", file("etc/passwd", b"x")?, "it holds no disk"),
        (
            "bomb",
            file("disk/a.img", &zeros).and_then(|image| Ok(image_of(gzip(&image.blobs[1])?)))?,
            "--image-size-limit",
        ),
        ("bomb-zstd", image_of(zstd(&tar_with(&[("disk/a.img", &zeros)])?)), "--image-size-limit"),
        ("bomb-artifact", artifact, "--image-size-limit"),
        ("backing", file("disk/a.qcow2", &backed)?, "/etc/shadow"),
        ("vmdk", file("disk/a.img", &[&b"KDMV"[..], &disk(1, 4096)].concat())?, "vmdk is not supported"),
        ("virtual-size", file("disk/a.qcow2", &huge)?, "--image-size-limit"),
        ("misnamed", image_of(raw_as_qcow2), "is named .qcow2 and is raw"),
        ("diff-id", wrong_diff_id, "the unpacked layer should have digest"),
        ("truncated", image_of(good()?[..700].to_vec()), "cut short"),
    ])
}

fn qcow2(options: &[&str], size: &str) -> Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new()?;
    output(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).args(options).arg(file.path()).arg(size))?;
    fs::read(file.path()).context("read the disk")
}

/// What is wrong with the registry, not with the image.
fn server_rows(registry: &HostileRegistry) -> Result<Vec<(&'static str, &'static str)>> {
    let image = TestImage::of_disk("a.img", &disk(3, 100_000))?;
    let layer = &image.blobs[1];
    let serve = |repository: &str, reply: Reply| {
        registry.put(repository, &image);
        registry.reply(&blob_path(repository, layer), reply);
    };
    let manifest = |repository: &str, reply: Reply| {
        registry.put(repository, &image);
        registry.reply(&format!("/v2/{repository}/manifests/{}", image.digest()), reply);
    };
    let mut other = layer.clone();
    // The time in the header of gzip: the same layer, by other bytes.
    other[5] ^= 1;
    serve("other-bytes", Reply::ok(other));
    serve("more-bytes", Reply::ok([&layer[..], b"more"].concat()));
    manifest("other-manifest", Reply::ok(b"{\"schemaVersion\": 2}".to_vec()));
    manifest("endless-manifest", Reply::ok(vec![b' '; 5 << 20]));
    serve("to-http", Reply::redirect("http://registry.invalid/blob"));
    serve("to-file", Reply::redirect("file:///etc/shadow"));
    serve("to-user", Reply::redirect("https://user:secret@registry.invalid/blob"));
    let round = blob_path("in-circles", layer);
    serve("in-circles", Reply::redirect(&round));
    let realm = r#"Bearer realm="http://registry.invalid/token""#;
    serve("realm", Reply::status(401, Vec::new()).with_header("WWW-Authenticate", realm));
    serve("denied", Reply::status(403, Vec::new()));
    serve("gone", Reply::status(404, Vec::new()));
    serve("html", Reply::status(400, b"<html>".to_vec()));
    let index = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "x", "digest": image.digest(), "size": 1, "platform": {"os": "linux", "architecture": "s390x"}}]});
    let index = TestImage { manifest: index, blobs: Vec::new() };
    registry.put("no-platform", &index);
    Ok(vec![
        ("other-bytes", "should have digest"),
        ("more-bytes", "sends more than"),
        ("other-manifest", "serves other bytes than"),
        ("endless-manifest", "is longer than 4194304 bytes"),
        ("to-http", "plain http to another host is not followed"),
        ("to-file", "only http and https are followed"),
        ("to-user", "user and password is not followed"),
        ("in-circles", "more than 5 times"),
        ("realm", "by plain http"),
        ("denied", "without credentials"),
        ("gone", "has no layer"),
        ("html", "answers 400"),
        ("no-platform", "only for linux/s390x"),
    ])
}

#[test]
fn each_attack_is_refused_with_its_reason_and_leaves_nothing() -> Result<()> {
    let (registry, store) = (HostileRegistry::start()?, Store::new()?);
    let good = TestImage::of_disk("good.img", &disk(9, 300_000))?;
    registry.put("good", &good);
    let mut rows = Vec::new();
    for (name, image, words) in layer_rows()? {
        registry.put(name, &image);
        rows.push((name, words));
    }
    rows.extend(server_rows(&registry)?);
    for (name, words) in rows {
        let said = failure(&mut store.command(&["pull", &registry.image(name)])?).with_context(|| name.to_owned())?;
        ensure!(said.contains(words), "{name}: no {words:?} in {said}");
        ensure!(!said.contains("secret@"), "{name}: {said}");
        ensure!(store.files("blobs")?.is_empty() && store.files("incoming")?.is_empty(), "{name} left something");
        ensure!(said.lines().count() == 1, "{name}: {said}");
    }
    store.pull(&registry.image("good"))?;
    ensure!(store.check_whole()? == 1, "another pull was harmed");
    Ok(())
}

#[test]
fn a_connection_that_breaks_is_resumed_where_it_broke() -> Result<()> {
    let (registry, store) = (HostileRegistry::start()?, Store::new()?);
    for (name, knows_ranges) in [("ranges", true), ("no-ranges", false)] {
        let image = TestImage::of_disk("a.img", &disk(u8::from(knows_ranges), 900_000))?;
        let layer = &image.blobs[1];
        registry.put(name, &image);
        let cut = Reply { cut_once_at: Some(layer.len() / 2), knows_ranges, ..Reply::ok(layer.clone()) };
        registry.reply(&blob_path(name, layer), cut);
        store.pull(&registry.image(name))?;
        let asked: Vec<_> =
            registry.asked().into_iter().filter(|asked| asked.line.ends_with(&blob_path(name, layer))).collect();
        ensure!(asked.len() == 2 && asked[1].range == Some(format!("bytes={}-", layer.len() / 2)), "{asked:?}");
    }
    ensure!(store.check_whole()? == 2, "one of them is missing");
    Ok(())
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() -> Result<()> {
    let (registry, elsewhere, store) = (HostileRegistry::start()?, HostileRegistry::start()?, Store::new()?);
    let image = TestImage::of_disk("a.img", &disk(5, 10_000))?;
    let layer = &image.blobs[1];
    registry.put("private", &image);
    let basic = "Basic dXNlcjpodW50ZXIy";
    let redirect = Reply::redirect(&format!("http://{}/cdn", elsewhere.host()));
    registry.reply(&blob_path("private", layer), Reply { authorization: Some(basic.to_owned()), ..redirect });
    elsewhere.reply("/cdn", Reply::ok(layer.clone()));
    let secret = store.directory.path().join("auth.json");
    fs::write(&secret, json!({"auths": {registry.host(): {"username": "user", "password": "hunter2"}}}).to_string())?;
    let secret = secret.display().to_string();
    output(&mut store.command(&["pull", &registry.image("private"), "--authfile", &secret])?)?;
    ensure!(registry.asked().iter().any(|asked| asked.authorization.as_deref() == Some(basic)), "never shown");
    let asked = elsewhere.asked();
    ensure!(asked.len() == 1 && asked[0].authorization.is_none(), "{asked:?}");

    // Nor is a host that is redirected to asked where they are to be shown.
    let other = TestImage::of_disk("a.img", &disk(6, 10_000))?;
    let layer = &other.blobs[1];
    registry.put("private", &other);
    let redirect = Reply::redirect(&format!("http://{}/wants", elsewhere.host()));
    registry.reply(&blob_path("private", layer), Reply { authorization: Some(basic.to_owned()), ..redirect });
    let realm = format!("Bearer realm=\"http://{}/token\"", elsewhere.host());
    elsewhere.reply("/wants", Reply::status(401, Vec::new()).with_header("WWW-Authenticate", &realm));
    let said = failure(&mut store.command(&["pull", &registry.image("private"), "--authfile", &secret])?)?;
    ensure!(said.contains("to which it redirects"), "{said}");
    let asked = elsewhere.asked();
    ensure!(asked.iter().all(|asked| asked.authorization.is_none() && !asked.line.contains("/token")), "{asked:?}");
    Ok(())
}

#[test]
fn an_image_of_one_registry_is_not_had_by_naming_its_digest_at_another() -> Result<()> {
    let (registry, other, store) = (HostileRegistry::start()?, HostileRegistry::start()?, Store::new()?);
    let image = TestImage::of_disk("a.img", &disk(7, 10_000))?;
    registry.put("private", &image);
    store.pull(&registry.image("private"))?;
    let lie = Reply::ok(Vec::new()).with_header("Docker-Content-Digest", &image.digest());
    other.reply("/v2/liar/manifests/1", lie);
    let said = failure(&mut store.command(&["pull", &other.image("liar")])?)?;
    ensure!(said.contains(&other.host()), "{said}");
    let listed = output(&mut store.command(&["list"])?)?;
    ensure!(!listed.contains("liar"), "{listed}");
    Ok(())
}

#[test]
fn a_pull_that_is_killed_leaves_no_part_of_an_image() -> Result<()> {
    let (registry, store) = (HostileRegistry::start()?, Store::new()?);
    let content = disk(8, 4 << 20);
    let image =
        TestImage::new(vec![(tar_with(&[("disk/a.img", &content)])?, "application/vnd.oci.image.layer.v1.tar")], &[]);
    registry.put("slow", &image);
    let paced = Reply { pace: Some(Duration::from_millis(2)), ..Reply::ok(image.blobs[1].clone()) };
    registry.reply(&blob_path("slow", &image.blobs[1]), paced);
    let mut killed = 0;
    for round in 0..12_u64 {
        let mut child =
            store.command(&["pull", &registry.image("slow")])?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // Anywhere between the start of the program and the last byte.
        thread::sleep(Duration::from_millis(15 + round * 20));
        killed += u32::from(child.try_wait()?.is_none());
        child.kill().context("kill the pull")?;
        child.wait().context("reap the pull")?;
        if store.data().join("images/blobs").is_dir() {
            store.check_whole()?;
        }
    }
    ensure!(killed >= 3, "only {killed} were killed in the middle");
    store.pull(&registry.image("slow"))?;
    ensure!(store.check_whole()? == 1 && store.files("incoming")?.is_empty(), "something is left");
    ensure!(fs::read(&store.files("blobs")?[0])? == content, "another disk");
    Ok(())
}

#[test]
fn the_store_keeps_under_its_limit_by_dropping_what_is_unused() -> Result<()> {
    let (registry, store) = (HostileRegistry::start()?, Store::new()?);
    for (name, byte) in [("a", 1), ("b", 2), ("c", 3)] {
        registry.put(name, &TestImage::of_disk("a.img", &disk(byte, 2 << 20))?);
        // A pull may write 32Mi before it asks again.
        output(&mut store.command(&["pull", &registry.image(name), "--image-store-limit", "35Mi"])?)?;
    }
    let listed = output(&mut store.command(&["list"])?)?;
    ensure!(!listed.contains("/a:1") && listed.contains("/b:1") && listed.contains("/c:1"), "{listed}");
    ensure!(store.check_whole()? == 2, "{listed}");
    let full = failure(&mut store.command(&["pull", &registry.image("a"), "--image-store-limit", "33Mi"])?);
    // Nothing is in use: all of it goes, and the new one fits.
    ensure!(full.is_err(), "{full:?}");
    let pruned = output(&mut store.command(&["prune"])?)?;
    ensure!(pruned.contains("freed 2.0Mi") && store.files("blobs")?.is_empty(), "{pruned}");
    Ok(())
}

#[test]
fn a_registry_with_password_and_tls_is_reached_by_hosts_toml() -> Result<()> {
    if let Some(reason) = why_unavailable() {
        say_skipped("a registry with password and TLS", &reason);
        return Ok(());
    }
    let store = Store::new()?;
    let registry = DockerRegistry::start(
        &store.directory.path().join("registry"),
        Options { password: true, tls: true, ..Options::default() },
    )?;
    let image = TestImage::of_disk("a.img", &disk(6, 100_000))?;
    registry.push("team/disk:1", &image)?;
    let name = registry.image("team/disk:1");
    let secret = store.directory.path().join("auth.json");
    fs::write(&secret, registry.pull_secret())?;
    let secret = secret.display().to_string();
    let directory = registry.registries_dir()?.display().to_string();
    let pull = |more: &[&str]| store.command(&[&["pull", &name], more].concat());
    for (more, words) in [
        (vec![], "answers 400"),
        (vec!["--registries-dir", &directory], "name a secret"),
        (vec!["--registries-dir", "/nonexistent", "--authfile", &secret], "answers 400"),
    ] {
        let said = failure(&mut pull(&more)?)?;
        ensure!(said.contains(words), "no {words:?} in {said}");
    }
    let said = output(&mut pull(&["--registries-dir", &directory, "--authfile", &secret])?)?;
    ensure!(said.contains(&image.digest()) && store.check_whole()? == 1, "{said}");
    // That it is there now gives nobody a right to it.
    let said = failure(&mut pull(&["--registries-dir", &directory])?)?;
    ensure!(said.contains("name a secret"), "{said}");
    let said = output(&mut pull(&["--registries-dir", &directory, "--authfile", &secret])?)?;
    ensure!(said.contains("there already"), "{said}");
    let untrusted = store.directory.path().join("untrusted").join(registry.host());
    fs::create_dir_all(&untrusted)?;
    fs::write(untrusted.join("hosts.toml"), format!("server = \"https://{}\"\n", registry.host()))?;
    let untrusted = untrusted.parent().map(Path::to_owned).context("a parent")?.display().to_string();
    let said = failure(&mut pull(&["--registries-dir", &untrusted, "--authfile", &secret])?)?;
    if !said.contains("certificate") {
        bail!("an authority that nobody trusts: {said}");
    }
    Ok(())
}
