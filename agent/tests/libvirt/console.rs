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

/// libvirtd 11.3 crashes or spins when a guest ends whose input it still holds, and stops reading a connection that sends too much of it.
#[tokio::test]
async fn input_that_no_guest_reads_harms_neither_libvirtd_nor_another_call() {
    let Some(daemon) = private_libvirtd("input_that_no_guest_reads_harms_neither_libvirtd_nor_another_call") else {
        return;
    };
    let libvirt = connect(daemon.uri()).await;
    let guest = define(&daemon, &libvirt, "deaf", &IDLE, GuestOptions::default()).await;
    libvirt.start(guest.uuid).await.unwrap();
    let mut console = libvirt.open_console(guest.uuid).await.unwrap();
    for key in 0..100 {
        console.write_all(&[key]).await.unwrap();
        console.flush().await.unwrap();
    }
    let paste = vec![b'x'; 4 << 20];
    let begun = Instant::now();
    let written = timeout(Duration::from_millis(300), console.write_all(&paste)).await;
    written.expect_err("the writer waits for the guest");
    assert!(begun.elapsed() < Duration::from_secs(3), "and holds no other task up: {:?}", begun.elapsed());
    libvirt.list_domains().await.unwrap();
    libvirt.destroy(guest.uuid).await.unwrap();
    libvirt.list_domains().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(libvirt.is_connected(), "libvirtd lives");
}

#[tokio::test]
async fn a_paste_comes_back_whole_and_in_order() {
    let Some(daemon) = private_libvirtd("a_paste_comes_back_whole_and_in_order") else { return };
    let libvirt = connect(daemon.uri()).await;
    let (_guest, mut console) = echoing(&daemon, &libvirt).await;
    let paste: Vec<u8> = (0..500_u32).map(|index| b'a' + u8::try_from(index % 26).unwrap()).collect();
    let (mut reader, mut writer) = tokio::io::split(&mut console);
    let mut output = Vec::new();
    let echoed = async {
        while !output.ends_with(&paste) {
            assert_ne!(reader.read_buf(&mut output).await.unwrap(), 0, "the console stays open");
        }
    };
    let typed = async {
        writer.write_all(&paste).await.unwrap();
        writer.flush().await.unwrap();
    };
    let both = async { tokio::join!(echoed, typed) };
    timeout(PATIENCE, both).await.expect("every byte comes back in order");
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
