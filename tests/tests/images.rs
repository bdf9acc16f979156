//! Guests from images of a real registry: `docker-registry` on loopback, pulled by the node's agent.

use anyhow::{Result, ensure};
use tests::boot_sector::SERIAL;
use tests::machines::bare_machine;
use tests::programs::say_skipped;
use tests::registry::{DockerRegistry, Options, TestImage, why_unavailable};
use tests::stack::{DEADLINE, NAMESPACE, Stack};

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
