//! Serial console and display of a real guest.

use std::time::{Duration, Instant};

use agent::libvirt::{Console, Libvirt};
use tests::boot_sector::{IDLE, SERIAL};
use tests::libvirtd::{PrivateLibvirtd, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::support::{Guest, GuestOptions, PATIENCE, connect, define, private_libvirtd};

/// A guest that echoes, and its console once it does.
async fn echoing(daemon: &PrivateLibvirtd, libvirt: &Libvirt) -> (Guest, Console) {
    let guest = define(daemon, libvirt, "echoes", &SERIAL, GuestOptions::default()).await;
    libvirt.start(guest.uuid).await.unwrap();
    let mut console = libvirt.open_console(guest.uuid).await.unwrap();
    exchange(&mut console, b"hello").await;
    (guest, console)
}

/// Types `text` until it comes back whole: a booting guest loses the first keys.
async fn exchange(console: &mut Console, text: &[u8]) {
    let mut output = Vec::new();
    let begun = Instant::now();
    while !output.windows(text.len()).any(|window| window == text) {
        assert!(begun.elapsed() < PATIENCE, "the guest echoes; so far {:?}", String::from_utf8_lossy(&output));
        console.write_all(text).await.unwrap();
        while let Ok(read) = timeout(Duration::from_millis(300), console.read_buf(&mut output)).await {
            assert_ne!(read.unwrap(), 0, "the console stays open");
        }
    }
}

#[tokio::test]
async fn a_console_carries_both_ways_and_ends_with_its_guest() {
    let Some(daemon) = private_libvirtd("a_console_carries_both_ways_and_ends_with_its_guest") else { return };
    let libvirt = connect(daemon.uri()).await;
    let (_guest, mut console) = echoing(&daemon, &libvirt).await;
    console.write_all(b"!").await.unwrap();
    let mut rest = Vec::new();
    timeout(PATIENCE, console.read_to_end(&mut rest)).await.expect("it ends").expect("as a file ends");
    console.write_all(b"x").await.expect_err("nobody is there");
}

#[tokio::test]
async fn the_newer_viewer_wins_and_closing_frees_the_console() {
    let Some(daemon) = private_libvirtd("the_newer_viewer_wins_and_closing_frees_the_console") else { return };
    let libvirt = connect(daemon.uri()).await;
    let (guest, mut older) = echoing(&daemon, &libvirt).await;
    let mut newer = libvirt.open_console(guest.uuid).await.unwrap();
    exchange(&mut newer, b"newer").await;
    let mut rest = Vec::new();
    let ended = timeout(PATIENCE, older.read_to_end(&mut rest)).await.expect("the older one is told");
    assert!(!String::from_utf8_lossy(&rest).contains("newer"), "and sees nothing of the newer one: {ended:?}");
    for _ in 0..20 {
        drop(newer);
        newer = libvirt.open_console(guest.uuid).await.unwrap();
    }
    exchange(&mut newer, b"still").await;
}

#[tokio::test]
async fn a_console_fails_when_libvirtd_dies_and_not_before() {
    let Some(mut daemon) = private_libvirtd("a_console_fails_when_libvirtd_dies_and_not_before") else { return };
    let libvirt = connect(daemon.uri()).await;
    let (_guest, mut console) = echoing(&daemon, &libvirt).await;
    let mut byte = [0];
    timeout(Duration::from_millis(300), console.read(&mut byte)).await.expect_err("an idle console waits");
    daemon.stop_daemon(Signal::Kill).unwrap();
    let end = timeout(PATIENCE, console.read(&mut byte)).await.expect("the reader is told");
    end.expect_err("this is not how a guest ends");
    console.write_all(b"x").await.expect_err("nobody is there");
}

/// libvirtd reads no more of a connection whose input nobody takes; other calls must not wait behind it.
#[tokio::test]
async fn input_that_no_guest_reads_delays_no_other_call() {
    let Some(daemon) = private_libvirtd("input_that_no_guest_reads_delays_no_other_call") else { return };
    let libvirt = connect(daemon.uri()).await;
    let guest = define(&daemon, &libvirt, "deaf", &IDLE, GuestOptions::default()).await;
    libvirt.start(guest.uuid).await.unwrap();
    let mut console = libvirt.open_console(guest.uuid).await.unwrap();
    let paste = vec![b'x'; 1 << 20];
    drop(timeout(Duration::from_secs(1), console.write_all(&paste)).await);
    let begun = Instant::now();
    libvirt.list_domains().await.unwrap();
    libvirt.destroy(guest.uuid).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_display_speaks_vnc() {
    let Some(daemon) = private_libvirtd("a_display_speaks_vnc") else { return };
    let libvirt = connect(daemon.uri()).await;
    let guest = define(&daemon, &libvirt, "display", &IDLE, GuestOptions::default()).await;
    let error = libvirt.open_graphics(guest.uuid).await.unwrap_err();
    assert!(error.is_wrong_state(), "it does not run: {error:?}");
    libvirt.start(guest.uuid).await.unwrap();
    let mut display = libvirt.open_graphics(guest.uuid).await.unwrap();
    let mut greeting = [0; 12];
    timeout(PATIENCE, display.read_exact(&mut greeting)).await.expect("QEMU greets").unwrap();
    assert_eq!(&greeting, b"RFB 003.008\n");
}
