//! What the tests share: private daemons, guests of 512 bytes, and waiting for events.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agent::libvirt::{Event, Events, GuestEventKind, Libvirt, LibvirtOptions, Lifecycle};
use tests::boot_sector::{BootSectorDomain, write_disk};
use tests::libvirtd::{PrivateLibvirtd, why_unsupported};
use uuid::Uuid;

/// How long anything may take on a busy machine before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A private libvirtd, or `None` with a loud word where the host cannot run one.
pub(crate) fn private_libvirtd(test: &str) -> Option<PrivateLibvirtd> {
    let reason = why_unsupported().or_else(|| {
        let emulator = Path::new("/usr/bin/qemu-system-x86_64");
        (!emulator.exists()).then(|| "not installed: qemu-system-x86_64".to_owned())
    });
    if let Some(reason) = reason {
        eprintln!("SKIPPED {test}: {reason}");
        return None;
    }
    Some(PrivateLibvirtd::start().unwrap())
}

/// The URI of libvirt's test driver behind this daemon: real calls and events, no QEMU.
pub(crate) fn test_driver_uri(daemon: &PrivateLibvirtd) -> String {
    format!("test+unix:///default?socket={}", daemon.socket().display())
}

/// A connection with the usual deadlines.
pub(crate) async fn connect(uri: impl Into<String>) -> Libvirt {
    Libvirt::connect(LibvirtOptions::new(uri)).await.unwrap()
}

/// A defined guest that boots a sector.
pub(crate) struct Guest {
    pub(crate) uuid: Uuid,
}

/// How a guest differs from the usual one.
#[derive(Clone, Copy)]
pub(crate) struct GuestOptions {
    pub(crate) on_reboot: &'static str,
    pub(crate) panic_device: bool,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self { on_reboot: "destroy", panic_device: true }
    }
}

/// Defines a guest that boots `sector`, named after `name`.
pub(crate) async fn define(
    daemon: &PrivateLibvirtd,
    libvirt: &Libvirt,
    name: &str,
    sector: &[u8; 512],
    options: GuestOptions,
) -> Guest {
    let uuid = Uuid::new_v4();
    let disk = daemon.directory().join(format!("{uuid}.img"));
    write_disk(&disk, sector).unwrap();
    let domain = BootSectorDomain {
        name,
        uuid: &uuid.to_string(),
        disk: &disk,
        on_reboot: options.on_reboot,
        panic_device: options.panic_device,
    };
    let identity = libvirt.define(uuid, domain.xml()).await.unwrap();
    assert_eq!((identity.uuid, identity.name.as_str()), (uuid, name));
    Guest { uuid }
}

/// The next event, which has to come.
pub(crate) async fn next(events: &mut Events) -> Event {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").expect("the handle lives")
}

/// What happens to a domain, up to and including the event that `last` recognises.
pub(crate) async fn collect(
    events: &mut Events,
    uuid: Uuid,
    last: impl Fn(&GuestEventKind) -> bool,
) -> Vec<GuestEventKind> {
    let mut collected = Vec::new();
    loop {
        if let Event::Guest(event) = next(events).await
            && event.uuid == uuid
        {
            let done = last(&event.kind);
            collected.push(event.kind);
            if done {
                return collected;
            }
        }
    }
}

/// Whether an event says that the guest's process is gone.
pub(crate) fn is_stopped(kind: &GuestEventKind) -> bool {
    matches!(kind, GuestEventKind::Lifecycle(Lifecycle::Stopped(_)))
}

/// Whether an event says that the guest has started.
pub(crate) fn is_started(kind: &GuestEventKind) -> bool {
    matches!(kind, GuestEventKind::Lifecycle(Lifecycle::Started(_)))
}

/// The QEMU process of a domain, as the host numbers it.
pub(crate) fn qemu_pid(uuid: Uuid) -> Option<nix::unistd::Pid> {
    let marker = uuid.to_string();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let command = String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).ok()?).into_owned();
        let is_it = command.split('\0').next()?.ends_with("qemu-system-x86_64") && command.contains(&marker);
        is_it.then(|| nix::unistd::Pid::from_raw(pid))
    })
}
