//! Memory over many libvirt calls. A test binary of its own, because other tests' memory would blur the measure.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use agent::libvirt::{Libvirt, LibvirtOptions};

/// `all_domain_stats` of crate `virt` keeps every record that it returns; listing must not.
#[tokio::test]
async fn listing_does_not_leak() {
    let libvirt = Libvirt::connect(LibvirtOptions::new("test:///default")).await.unwrap();
    for _ in 0..500 {
        libvirt.list_domains().await.unwrap();
    }
    let before = resident_kib();
    for _ in 0..5_000 {
        libvirt.list_domains().await.unwrap();
    }
    let grown = resident_kib().saturating_sub(before);
    // A leaked record holds two parameters of 96 bytes, a domain handle and a pointer: 5000 of them are more than 1500 KiB.
    assert!(grown < 700, "5000 lists of one domain left {grown} KiB");
}

fn resident_kib() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4
}
