//! How `ovm-agent image pull` reaches registries: tokens, mirrors, servers whose certificate nobody vouches for; and what it shows meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::ports::free_address;
use tests::programs::{failure, output, program, say_skipped};
use tests::registry::{
    DockerRegistry, HostileRegistry, Options, Reply, TestImage, blob_path, digest, tar_with, why_unavailable,
};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A directory for a node's images, and one for what it knows of registries.
struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir().context("make a directory")? })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A docker-registry of the test's own; none where the host has none.
    fn registry(&self, name: &str, options: Options) -> Result<Option<DockerRegistry>> {
        if let Some(reason) = why_unavailable() {
            say_skipped(name, &reason);
            return Ok(None);
        }
        DockerRegistry::start(&self.path(name), options).map(Some)
    }

    fn configure(&self, host: &str, hosts_toml: &str) -> Result<()> {
        let directory = self.path("registries.d").join(host);
        fs::create_dir_all(&directory).context("make the registry's directory")?;
        fs::write(directory.join("hosts.toml"), hosts_toml).context("write hosts.toml")
    }

    fn pull(&self, image: &str) -> Result<Command> {
        let mut command = Command::new(program("ovm-agent")?);
        command.args(["image", "pull", image, "--data-dir"]).arg(self.path("data"));
        command.arg("--registries-dir").arg(self.path("registries.d"));
        Ok(command)
    }

    fn auth_file(&self, registry: &DockerRegistry, password: Option<&str>) -> Result<PathBuf> {
        let file = self.path("auth.json");
        let secret = registry.pull_secret();
        let secret = password.map_or(secret.clone(), |other| secret.replace(tests::registry::PASSWORD, other));
        fs::write(&file, secret).context("write the credentials")?;
        Ok(file)
    }
}

/// A disk that is like no other one.
fn image(seed: u8) -> Result<TestImage> {
    TestImage::of_disk("a.img", &(0..200_000_u32).map(|at| at.to_le_bytes()[0] ^ seed).collect::<Vec<_>>())
}

#[test]
fn a_registry_with_tokens_is_asked_with_one_for_this_repository_alone() -> Result<()> {
    let node = Node::new()?;
    let options = Options { token: true, ..Options::default() };
    let Some(registry) = node.registry("a registry with tokens", options)? else { return Ok(()) };
    let pushed = image(1)?;
    registry.push("team/disk:1", &pushed)?;
    let tokens = registry.tokens().context("it has a token server")?;
    let name = registry.image("team/disk:1");

    let said = failure(&mut node.pull(&name)?)?;
    ensure!(said.contains("name a secret") && tokens.asked().is_empty(), "{said}");
    let wrong = node.auth_file(&registry, Some("wrong"))?;
    let said = failure(node.pull(&name)?.arg("--authfile").arg(wrong))?;
    ensure!(said.contains("correct the secret") && !said.contains("wrong"), "{said}");
    let right = node.auth_file(&registry, None)?;
    let said = output(node.pull(&name)?.arg("--authfile").arg(right))?;
    ensure!(said.contains(&pushed.digest()), "{said}");
    let asked = tokens.asked();
    let scope = "service=registry.test&scope=repository%3Ateam%2Fdisk%3Apull";
    ensure!(asked.iter().all(|query| query == scope) && asked.len() == 2, "it was asked {asked:?}");
    // What was pulled by a token is no less private.
    let said = failure(&mut node.pull(&name)?)?;
    ensure!(said.contains("name a secret"), "{said}");
    Ok(())
}

#[test]
fn a_mirror_is_asked_first_and_the_registry_for_what_it_lacks() -> Result<()> {
    let node = Node::new()?;
    let Some(mirror) = node.registry("a mirror", Options::default())? else { return Ok(()) };
    let Some(origin) = node.registry("an origin", Options::default())? else { return Ok(()) };
    let (both, only_there) = (image(2)?, image(3)?);
    mirror.push("team/both:1", &both)?;
    origin.push("team/both:1", &both)?;
    origin.push("team/only-there:1", &only_there)?;
    node.configure(&origin.host(), &format!("[host.\"http://{}\"]\n", mirror.host()))?;

    output(&mut node.pull(&origin.image("team/both:1"))?)?;
    ensure!(origin.requests("GET", "/v2/") + origin.requests("HEAD", "/v2/") == 0, "{}", origin.log());
    ensure!(mirror.requests("GET", &format!("ns={}", origin.host().replace(':', "%3A"))) > 0, "{}", mirror.log());
    output(&mut node.pull(&origin.image("team/only-there:1"))?)?;
    ensure!(mirror.requests("HEAD", "team/only-there") > 0, "{}", mirror.log());
    ensure!(origin.requests("GET", &digest(&only_there.blobs[1])) == 1, "{}", origin.log());
    let said = failure(&mut node.pull(&origin.image("team/nowhere:1"))?)?;
    // The last word is the registry's own.
    ensure!(said.contains(&format!("registry {} has no image", origin.host())), "{said}");
    Ok(())
}

#[test]
fn a_mirror_serves_while_the_registry_is_down_and_the_registry_while_the_mirror_is() -> Result<()> {
    let node = Node::new()?;
    let Some(up) = node.registry("one that is up", Options::default())? else { return Ok(()) };
    let pushed = image(4)?;
    up.push("team/disk:1", &pushed)?;
    let down = free_address()?.to_string();
    node.configure(&down, &format!("[host.\"http://{}\"]\n", up.host()))?;
    let said = output(&mut node.pull(&format!("{down}/team/disk:1"))?)?;
    ensure!(said.contains(&pushed.digest()), "{said}");

    node.configure(&up.host(), &format!("[host.\"http://{down}\"]\n"))?;
    let said = output(&mut node.pull(&up.image("team/disk:1"))?)?;
    ensure!(said.contains(&pushed.digest()), "{said}");
    Ok(())
}

#[test]
fn skip_verify_believes_any_certificate_of_the_servers_that_it_is_said_for() -> Result<()> {
    let node = Node::new()?;
    let options = Options { tls: true, ..Options::default() };
    let Some(registry) = node.registry("a registry with TLS", options)? else { return Ok(()) };
    registry.push("team/disk:1", &image(5)?)?;
    let name = registry.image("team/disk:1");
    let server = format!("server = \"https://{}\"\n", registry.host());
    node.configure(&registry.host(), &server)?;
    let said = failure(&mut node.pull(&name)?)?;
    ensure!(said.contains("certificate"), "{said}");
    // Said for a mirror it does not hold for the registry.
    let mirror = format!("{server}[host.\"https://{}\"]\nskip_verify = true\n", free_address()?);
    node.configure(&registry.host(), &mirror)?;
    let said = failure(&mut node.pull(&name)?)?;
    ensure!(said.contains("certificate"), "{said}");
    node.configure(&registry.host(), &format!("{server}skip_verify = true\n"))?;
    output(&mut node.pull(&name)?)?;
    Ok(())
}

#[test]
fn a_bar_is_shown_on_a_terminal_and_nowhere_else() -> Result<()> {
    let (node, registry) = (Node::new()?, HostileRegistry::start()?);
    let layer = tar_with(&[("disk/a.img", &vec![7; 8 << 20])])?;
    let slow = TestImage::new(vec![(layer.clone(), LAYER)], &[]);
    registry.put("slow", &slow);
    let paced = Reply { pace: Some(Duration::from_millis(5)), ..Reply::ok(layer.clone()) };
    registry.reply(&blob_path("slow", &layer), paced);

    let piped = node.pull(&registry.image("slow"))?.output().context("pull")?;
    ensure!(piped.status.success() && piped.stderr.is_empty(), "{}", String::from_utf8_lossy(&piped.stderr));
    fs::remove_dir_all(node.path("data")).context("empty the store")?;

    let shown = on_a_terminal(&node.pull(&registry.image("slow"))?)?;
    let short: String = digest(&layer).chars().skip("sha256:".len()).take(12).collect();
    ensure!(shown.contains(&short) && shown.contains("8.00 MiB"), "{shown}");
    // The bar moves.
    let places = shown.matches("MiB/8.00 MiB").count() + shown.matches("KiB/8.00 MiB").count();
    ensure!(places >= 3, "{shown}");
    ensure!(shown.contains(&format!("pulled {}", registry.image("slow"))), "{shown}");
    Ok(())
}

/// What a command writes when its three standard files are a terminal, of 80 columns.
fn on_a_terminal(command: &Command) -> Result<String> {
    let words: Vec<&Path> = std::iter::once(command.get_program()).chain(command.get_args()).map(Path::new).collect();
    let line = words.iter().map(|word| format!("'{}'", word.display())).collect::<Vec<_>>().join(" ");
    output(Command::new("script").args([
        "--quiet",
        "--return",
        "--command",
        &format!("stty cols 80; {line}"),
        "/dev/null",
    ]))
}
