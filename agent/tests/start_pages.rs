//! What only the start needed is given back. Alone in its process: other tests would touch pages meanwhile.

#![expect(clippy::unwrap_used, reason = "clippy exempts #[test] functions, but not what they call")]

use agent::libvirt::give_back_start_pages;

/// Memory of this process that is mapped from files, in kB.
fn mapped_from_files() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn what_the_start_touched_is_given_back_and_everything_still_works() {
    // The table of relocated pointers to functions must survive.
    let texts: Vec<String> = (0..4).map(|number| format!("{number:?}")).collect();
    let before = mapped_from_files();
    give_back_start_pages();
    let after = mapped_from_files();
    assert!(after < before / 2, "{before} kB before, {after} kB after");
    assert_eq!(texts.concat(), "0123");
    assert!(virt::connect::Connect::version().is_ok(), "libvirt's library works on");
}
