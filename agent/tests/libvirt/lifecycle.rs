//! How guests end, and what libvirt says about it: the table that `plan::node` is built on, row by row, with real QEMU.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use agent::libvirt::{
    CrashedDetail, DomainState, Event, GuestEventKind, Libvirt, Lifecycle, RunningReason, ShutOffReason,
    ShutdownDetail, StoppedDetail, SuspendedDetail, Usability, VirtType, XmlView,
};
use nix::sys::signal::{Signal as UnixSignal, kill};
use tests::boot_sector::{IDLE, OBEYS_POWER_BUTTON, PANIC, POWER_OFF, RESET, SERIAL, SERIAL_BANNER};
use tests::libvirtd::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use super::support::{
    Guest, GuestOptions, PATIENCE, collect, connect, define, is_started, is_stopped, next, private_libvirtd, qemu_pid,
};

const SHUT_DOWN_BY_GUEST: GuestEventKind = GuestEventKind::Lifecycle(Lifecycle::Shutdown(ShutdownDetail::Guest));
const SHUT_DOWN_BY_HOST: GuestEventKind = GuestEventKind::Lifecycle(Lifecycle::Shutdown(ShutdownDetail::Host));

fn stopped(detail: StoppedDetail) -> GuestEventKind {
    GuestEventKind::Lifecycle(Lifecycle::Stopped(detail))
}

/// What is done to a running guest.
enum Deed {
    Nothing,
    PowerButton,
    Destroy,
    Signal(UnixSignal),
}

/// Starts the guest, does the deed, and returns what happened between its start and its end, and the state after.
async fn live(libvirt: &Libvirt, guest: &Guest, deed: Deed) -> (Vec<GuestEventKind>, DomainState) {
    let mut events = libvirt.events();
    libvirt.start(guest.uuid).await.unwrap();
    let collected = match deed {
        Deed::Nothing => collect(&mut events, guest.uuid, is_stopped).await,
        Deed::PowerButton => press_until_stopped(libvirt, guest.uuid, &mut events).await,
        Deed::Destroy => {
            libvirt.destroy(guest.uuid).await.unwrap();
            collect(&mut events, guest.uuid, is_stopped).await
        }
        Deed::Signal(signal) => {
            kill(qemu_pid(guest.uuid).expect("QEMU runs"), signal).unwrap();
            collect(&mut events, guest.uuid, is_stopped).await
        }
    };
    let belongs_to_the_end = |kind: &GuestEventKind| {
        let GuestEventKind::Lifecycle(lifecycle) = kind else { return true };
        !matches!(lifecycle, Lifecycle::Defined(_) | Lifecycle::Resumed(_) | Lifecycle::Started(_))
    };
    let after_start = collected.into_iter().filter(belongs_to_the_end).collect();
    assert_eq!(qemu_pid(guest.uuid), None, "no process is left");
    (after_start, libvirt.domain_state(guest.uuid).await.unwrap())
}

/// A booting guest drops the button, so it is pressed until the guest obeys.
async fn press_until_stopped(
    libvirt: &Libvirt,
    uuid: Uuid,
    events: &mut agent::libvirt::Events,
) -> Vec<GuestEventKind> {
    let stop = collect(events, uuid, is_stopped);
    tokio::pin!(stop);
    loop {
        match libvirt.shut_down(uuid).await {
            Err(error) if !error.is_wrong_state() => panic!("{error:?}"),
            _ => {}
        }
        if let Ok(collected) = tokio::time::timeout(Duration::from_millis(200), &mut stop).await {
            return collected;
        }
    }
}

#[tokio::test]
async fn each_way_to_end_has_its_events_and_its_reason() {
    let Some(daemon) = private_libvirtd("each_way_to_end_has_its_events_and_its_reason") else { return };
    let libvirt = connect(daemon.uri()).await;
    let by_guest = vec![SHUT_DOWN_BY_GUEST, stopped(StoppedDetail::Shutdown)];
    let rows = [
        ("powered off", POWER_OFF, Deed::Nothing, by_guest.clone(), ShutOffReason::Shutdown),
        ("obeyed the power button", OBEYS_POWER_BUTTON, Deed::PowerButton, by_guest.clone(), ShutOffReason::Shutdown),
        ("reset, which ends it", RESET, Deed::Nothing, by_guest, ShutOffReason::Shutdown),
        (
            "SIGTERM to QEMU",
            IDLE,
            Deed::Signal(UnixSignal::SIGTERM),
            vec![SHUT_DOWN_BY_HOST, stopped(StoppedDetail::Shutdown)],
            ShutOffReason::Shutdown,
        ),
        (
            "destroyed",
            IDLE,
            Deed::Destroy,
            vec![SHUT_DOWN_BY_HOST, stopped(StoppedDetail::Destroyed)],
            ShutOffReason::Destroyed,
        ),
        (
            "SIGKILL to QEMU",
            IDLE,
            Deed::Signal(UnixSignal::SIGKILL),
            vec![stopped(StoppedDetail::Failed)],
            ShutOffReason::Crashed,
        ),
    ];
    for (number, (row, sector, deed, events, reason)) in rows.into_iter().enumerate() {
        let guest = define(&daemon, &libvirt, &format!("row{number}"), &sector, GuestOptions::default()).await;
        let (seen, state) = live(&libvirt, &guest, deed).await;
        assert_eq!(seen, events, "{row}");
        assert_eq!(state, DomainState::ShutOff(reason), "{row}");
        libvirt.undefine(guest.uuid).await.unwrap();
    }
}

#[tokio::test]
async fn a_panic_is_told_before_the_end_and_is_its_reason() {
    let Some(daemon) = private_libvirtd("a_panic_is_told_before_the_end_and_is_its_reason") else { return };
    let libvirt = connect(daemon.uri()).await;
    let guest = define(&daemon, &libvirt, "panics", &PANIC, GuestOptions::default()).await;
    let (mut seen, state) = live(&libvirt, &guest, Deed::Nothing).await;
    // libvirt may tell of the pause and of the kill in between, or be too fast for either.
    let suspended = GuestEventKind::Lifecycle(Lifecycle::Suspended(SuspendedDetail::Paused));
    seen.retain(|kind| *kind != suspended && *kind != SHUT_DOWN_BY_HOST);
    let panicked = GuestEventKind::Lifecycle(Lifecycle::Crashed(CrashedDetail::Panicked));
    assert_eq!(seen, [panicked, stopped(StoppedDetail::Crashed)]);
    assert_eq!(state, DomainState::ShutOff(ShutOffReason::Crashed));
}

#[tokio::test]
async fn a_guest_that_goes_on_has_no_end() {
    let Some(daemon) = private_libvirtd("a_guest_that_goes_on_has_no_end") else { return };
    let libvirt = connect(daemon.uri()).await;
    let options = GuestOptions { on_reboot: "restart", panic_device: false };
    let guest = define(&daemon, &libvirt, "goes-on", &SERIAL, options).await;
    let mut events = libvirt.events();
    libvirt.start(guest.uuid).await.unwrap();
    collect(&mut events, guest.uuid, is_started).await;
    let mut console = libvirt.open_console(guest.uuid).await.unwrap();

    // A panic without a panic device: an answer to what follows it shows that the guest went past it.
    let mut echo = [0];
    console.write_all(b"#").await.unwrap();
    until_echoed(&mut console, b'x', &mut echo).await;
    assert_eq!(libvirt.domain_state(guest.uuid).await.unwrap(), DomainState::Running(RunningReason::Booted));

    console.write_all(b"%").await.unwrap();
    for _ in 0..2 {
        assert_eq!(collect(&mut events, guest.uuid, |_| true).await, [GuestEventKind::Reboot], "a reset is told twice");
    }
    let mut output = Vec::new();
    while !String::from_utf8_lossy(&output).contains(SERIAL_BANNER) {
        console.read_buf(&mut output).await.unwrap();
    }
    assert_eq!(libvirt.domain_state(guest.uuid).await.unwrap(), DomainState::Running(RunningReason::Booted));
}

/// Types `key` until the guest, which may still be booting, echoes it.
async fn until_echoed(console: &mut agent::libvirt::Console, key: u8, echo: &mut [u8; 1]) {
    let begun = Instant::now();
    while echo[0] != key {
        assert!(begun.elapsed() < PATIENCE, "the guest echoes");
        console.write_all(&[key]).await.unwrap();
        let read = tokio::time::timeout(Duration::from_millis(200), console.read_exact(echo)).await;
        if let Ok(read) = read {
            read.unwrap();
        }
    }
}

#[tokio::test]
async fn an_end_while_libvirtd_is_down_is_told_once_it_returns_and_forgotten_at_the_next_restart() {
    let name = "an_end_while_libvirtd_is_down_is_told_once_it_returns_and_forgotten_at_the_next_restart";
    let Some(mut daemon) = private_libvirtd(name) else { return };
    let libvirt = connect(daemon.uri()).await;
    let mut events = libvirt.events();
    let ends = define(&daemon, &libvirt, "ends", &SERIAL, GuestOptions::default()).await;
    let stays = define(&daemon, &libvirt, "stays", &IDLE, GuestOptions::default()).await;
    libvirt.start(ends.uuid).await.unwrap();
    libvirt.start(stays.uuid).await.unwrap();
    until_echoed(&mut libvirt.open_console(ends.uuid).await.unwrap(), b'x', &mut [0]).await;
    let terminal = pty(&libvirt, ends.uuid).await;
    let pid = qemu_pid(stays.uuid).expect("QEMU runs");

    daemon.stop_daemon(Signal::Kill).unwrap();
    // Kept open: QEMU looks once a second whether somebody is at the other end.
    let mut terminal = fs::OpenOptions::new().write(true).open(terminal).unwrap();
    terminal.write_all(b"!").unwrap();
    daemon.start_daemon().unwrap();
    while next(&mut events).await != Event::Reconnected {}
    let begun = Instant::now();
    while libvirt.domain_state(ends.uuid).await.unwrap() != DomainState::ShutOff(ShutOffReason::Shutdown) {
        assert!(begun.elapsed() < PATIENCE, "it is found powered off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(libvirt.domain_state(stays.uuid).await.unwrap(), DomainState::Running(_)));
    assert_eq!(qemu_pid(stays.uuid), Some(pid), "the same process as before");

    daemon.restart_daemon(Signal::Term).unwrap();
    while next(&mut events).await != Event::Reconnected {}
    assert_eq!(libvirt.domain_state(ends.uuid).await.unwrap(), DomainState::ShutOff(ShutOffReason::Unknown));
    assert_eq!(qemu_pid(stays.uuid), Some(pid), "the same process as before");
}

/// The host's side of a guest's serial port.
async fn pty(libvirt: &Libvirt, uuid: Uuid) -> String {
    let xml = libvirt.domain_xml(uuid, XmlView::Live).await.unwrap();
    let (_, rest) = xml.split_once("<serial type='pty'>").unwrap();
    let (_, rest) = rest.split_once("<source path='").unwrap();
    rest.split_once('\'').unwrap().0.to_owned()
}

#[tokio::test]
async fn a_start_throws_a_saved_memory_image_away() {
    let Some(daemon) = private_libvirtd("a_start_throws_a_saved_memory_image_away") else { return };
    let libvirt = connect(daemon.uri()).await;
    let guest = define(&daemon, &libvirt, "saved", &IDLE, GuestOptions::default()).await;
    libvirt.start(guest.uuid).await.unwrap();
    daemon.virsh(&["managedsave", "saved"]).unwrap();
    daemon.virsh(&["autostart", "saved"]).unwrap();
    let saved = libvirt.find_domain(guest.uuid).await.unwrap().unwrap();
    assert_eq!(saved.state, DomainState::ShutOff(ShutOffReason::Saved));
    assert!(saved.has_managed_save && saved.autostart && saved.persistent, "{saved:?}");
    assert_eq!(libvirt.list_domains().await.unwrap(), [saved]);

    libvirt.disable_autostart(guest.uuid).await.unwrap();
    libvirt.start(guest.uuid).await.unwrap();
    let started = libvirt.find_domain(guest.uuid).await.unwrap().unwrap();
    assert_eq!(started.state, DomainState::Running(RunningReason::Booted), "booted, not restored");
    assert!(!started.has_managed_save && !started.autostart, "{started:?}");

    daemon.virsh(&["managedsave", "saved"]).unwrap();
    libvirt.undefine(guest.uuid).await.expect("a saved image does not hold the definition");
    assert_eq!(libvirt.list_domains().await.unwrap(), []);
}

#[tokio::test]
async fn one_stopped_qemu_does_not_delay_the_list_or_another_guest() {
    let Some(daemon) = private_libvirtd("one_stopped_qemu_does_not_delay_the_list_or_another_guest") else { return };
    let libvirt = connect(daemon.uri()).await;
    let stuck = define(&daemon, &libvirt, "stuck", &IDLE, GuestOptions::default()).await;
    let other = define(&daemon, &libvirt, "other", &IDLE, GuestOptions::default()).await;
    libvirt.start(stuck.uuid).await.unwrap();
    let again = libvirt.start(stuck.uuid).await.unwrap_err();
    assert!(again.is_wrong_state(), "it runs: {again:?}");
    libvirt.start(other.uuid).await.unwrap();
    kill(qemu_pid(stuck.uuid).expect("QEMU runs"), UnixSignal::SIGSTOP).unwrap();

    // The monitor of the stopped guest does not answer, and this call waits for it.
    let (impatient, uuid) = (libvirt.clone(), stuck.uuid);
    let waiting = tokio::spawn(async move { impatient.shut_down(uuid).await });
    let begun = Instant::now();
    assert_eq!(libvirt.list_domains().await.unwrap().len(), 2);
    libvirt.destroy(other.uuid).await.unwrap();
    assert_eq!(libvirt.domain_state(stuck.uuid).await.unwrap(), DomainState::Running(RunningReason::Booted));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    libvirt.destroy(stuck.uuid).await.expect("destroy works on a process that does not answer");
    assert_eq!(libvirt.domain_state(stuck.uuid).await.unwrap(), DomainState::ShutOff(ShutOffReason::Destroyed));
    waiting.await.unwrap().expect_err("the guest did not obey");
}

#[tokio::test]
async fn the_host_says_how_it_runs_guests() {
    let Some(daemon) = private_libvirtd("the_host_says_how_it_runs_guests") else { return };
    let libvirt = connect(daemon.uri()).await;
    let facts = libvirt.host_facts().await.unwrap();
    assert_eq!((facts.driver.as_str(), facts.arch.as_str()), ("QEMU", "x86_64"));
    assert!(facts.hypervisor.is_some_and(|version| version.major >= 7), "{facts:?}");
    let Usability::Usable(emulator) = libvirt.emulator("x86_64", VirtType::Qemu, "q35").await.unwrap() else {
        panic!("emulation is usable")
    };
    assert_eq!(emulator.path, "/usr/bin/qemu-system-x86_64");
    assert!(emulator.machine.starts_with("pc-q35-"), "{emulator:?}");
    assert!(emulator.disk_buses.iter().any(|bus| bus == "sata") && emulator.max_vcpus > Some(1), "{emulator:?}");
    for (arch, machine) in [("x86_64", "pc-q35-99.9"), ("nonsense", "q35")] {
        let usability = libvirt.emulator(arch, VirtType::Qemu, machine).await.unwrap();
        assert!(matches!(usability, Usability::Unusable(_)), "{usability:?}");
    }
}
