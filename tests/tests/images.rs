//! Guests from images of a real registry: `docker-registry` on loopback, pulled by the node's agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tests::boot_sector::SERIAL;
use tests::libvirtd::Signal;
use tests::machines::bare_machine;
use tests::ports::free_address;
use tests::programs::say_skipped;
use tests::registry::{
    DockerRegistry, HostileRegistry, Options, Reply, TestImage, blob_path, digest, tar_with, why_unavailable,
};
use tests::scenario::{Api, run};
use tests::stack::{DEADLINE, NAMESPACE, Stack};
use tests::wait::wait_for;

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer that is sent in half a second.
const SLOW_BYTES: usize = 6 << 20;
const PACE: Duration = Duration::from_millis(5);
/// So many pulls are cut short, each a little later in it.
const KILLS: u64 = 4;
const LATER: Duration = Duration::from_millis(70);
/// A layer whose progress is told.
const LARGE_BYTES: usize = 65 << 20;

tests::scenarios! {
    a_guest_runs_from_an_image_of_a_registry: Console,
}

/// A registry beside the stack; none where the host has none.
fn registry(stack: &Stack, options: Options) -> Result<Option<DockerRegistry>> {
    if let Some(reason) = why_unavailable() {
        say_skipped("images", &reason);
        return Ok(None);
    }
    DockerRegistry::start(&stack.scratch("registry"), options).map(Some)
}

/// A disk of a MiB that begins with this sector.
fn disk(sector: &[u8]) -> Vec<u8> {
    let mut disk = sector.to_vec();
    disk.resize(1 << 20, 0);
    disk
}

fn a_guest_runs_from_an_image_of_a_registry(stack: &mut Stack) -> Result<()> {
    let Some(registry) = registry(stack, Options::default())? else { return Ok(()) };
    let image = TestImage::of_disk("guest.img", &disk(&SERIAL))?;
    registry.push("team/serial:v1", &image)?;
    let name = registry.image("team/serial:v1");
    stack.client.create(&bare_machine(NAMESPACE, "pulled", &name))?;
    let machine = stack.wait_for_phase(NAMESPACE, "pulled", "Running")?;
    let mut console = stack.console(NAMESPACE, "pulled")?;
    console.wait_for_echo("ping", DEADLINE)?;

    let images = &machine["status"]["images"];
    ensure!(images[0]["volumeName"] == "root" && images[0]["image"] == name, "the images are {images}");
    ensure!(images[0]["digest"] == image.digest(), "the images are {images}, and the image is {}", image.digest());
    ensure!(
        machine["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["type"] != "Synchronized")),
        "{}",
        machine["status"]
    );
    let events = stack.events(NAMESPACE, "VirtualMachine", "pulled")?;
    for (reason, words) in [("Pulling", "pulling image"), ("Pulled", &*image.digest())] {
        ensure!(events.iter().any(|(r, message)| r == reason && message.contains(words)), "no {reason} in {events:?}");
    }
    // A tag that is no `latest` is asked for once.
    stack.client.create(&bare_machine(NAMESPACE, "second", &name))?;
    stack.wait_for_phase(NAMESPACE, "second", "Running")?;
    ensure!(registry.requests("HEAD", "manifests") == 1, "{}", registry.log());
    ensure!(registry.requests("GET", "blobs") == 2, "configuration and layer once each: {}", registry.log());
    Ok(())
}

/// An image whose layer comes slowly from a registry: a guest, and something behind it that tells one from another.
fn slow_image(registry: &HostileRegistry, repository: &str, bytes: usize, pace: Duration) -> Result<TestImage> {
    let mut content = SERIAL.to_vec();
    content.extend((0..).map(|at: u64| (at.wrapping_mul(2_654_435_761) >> 7).to_le_bytes()[0]).take(bytes - 512));
    content.splice(512..512 + repository.len(), repository.bytes());
    let layer = tar_with(&[("disk/a.img", &content)])?;
    let image = TestImage::new(vec![(layer.clone(), LAYER)], &[]);
    registry.put(repository, &image);
    registry.reply(&blob_path(repository, &layer), Reply { pace: Some(pace), ..Reply::ok(layer) });
    Ok(image)
}

/// Files in a directory of the node's images.
fn files(data: &Path, directory: &str) -> Result<Vec<PathBuf>> {
    let path = data.join("images").join(directory);
    fs::read_dir(&path).with_context(|| format!("list {}", path.display()))?.map(|file| Ok(file?.path())).collect()
}

/// Every disk file that a guest could stand on is what its name says.
fn require_whole(data: &Path) -> Result<usize> {
    let files = files(data, "blobs")?;
    for file in &files {
        let found = digest(&fs::read(file)?).replace(':', "-");
        ensure!(file.to_string_lossy().contains(&found), "{} holds {found}", file.display());
    }
    Ok(files.len())
}

#[test]
fn an_agent_killed_while_it_pulls_boots_no_part_of_an_image() -> Result<()> {
    run(Api::Standalone, "an_agent_killed_while_it_pulls_boots_no_part_of_an_image", &[], |stack| {
        let registry = HostileRegistry::start()?;
        let data = stack.server.data().to_owned();
        let mut killed_early = 0;
        for round in 0..KILLS {
            let name = format!("killed-{round}");
            let image = slow_image(&registry, &name, SLOW_BYTES, PACE)?;
            stack.client.create(&bare_machine(NAMESPACE, &name, &registry.image(&name)))?;
            let layer = blob_path(&name, &image.blobs[1]);
            wait_for("the layer is asked for", DEADLINE, || {
                let is_asked = registry.asked().iter().any(|asked| asked.line == format!("GET {layer}"));
                ensure!(is_asked, "it was asked {:?}", registry.asked());
                Ok(())
            })?;
            // Not a wait for a state: any moment of the pull is as good as another.
            thread::sleep(LATER * u32::try_from(round)?);
            stack.server.stop(Signal::Kill)?;
            killed_early += usize::from(require_whole(&data)? <= usize::try_from(round)?);
            stack.server.start_again()?;
            stack.wait_for_phase(NAMESPACE, &name, "Running")?;
            let path = "//disk/backingStore/source/@file";
            let base = stack.libvirtd.virsh(&["dumpxml", &format!("{NAMESPACE}_{name}"), "--xpath", path])?;
            ensure!(base.contains("/images/blobs/sha256-"), "it stands on {base}");
            ensure!(require_whole(&data)? == usize::try_from(round)? + 1, "an image is missing");
            ensure!(files(&data, "incoming")?.is_empty(), "{:?} is left", files(&data, "incoming")?);
            stack.console(NAMESPACE, &name)?.wait_for_echo("ping", DEADLINE)?;
        }
        ensure!(killed_early >= 2, "only {killed_early} pulls were cut short");
        Ok(())
    })
}

#[test]
fn a_user_sees_how_far_a_pull_is_and_whom_it_waits_for() -> Result<()> {
    run(Api::Standalone, "a_user_sees_how_far_a_pull_is_and_whom_it_waits_for", &[], |stack| {
        let registry = HostileRegistry::start()?;
        slow_image(&registry, "large", LARGE_BYTES, Duration::from_millis(4))?;
        stack.client.create(&bare_machine(NAMESPACE, "large", &registry.image("large")))?;
        let said = stack.wait_for_reason(NAMESPACE, "large", "Pulling")?;
        ensure!(said.contains("volume root: pulling image") && said.contains(" of 65.0Mi, "), "it says {said}");
        stack.wait_for_phase(NAMESPACE, "large", "Running")?;
        let events = stack.events(NAMESPACE, "VirtualMachine", "large")?;
        let told = |words: &str| events.iter().any(|(reason, message)| reason == "Pulling" && message.ends_with(words));
        ensure!(told(", 25%") || told(", 50%") || told(", 75%"), "the events are {events:?}");

        // Nobody listens there: the pull fails, says so, and is tried again by itself.
        let down = free_address()?;
        stack.client.create(&bare_machine(NAMESPACE, "down", &format!("{down}/team/disk:1")))?;
        let said = stack.wait_for_reason(NAMESPACE, "down", "ErrImagePull")?;
        ensure!(said.contains(&format!("registry {down} cannot be reached")), "it says {said}");
        Ok(())
    })
}
