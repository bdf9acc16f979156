//! What was seen, judged. Pure.

use std::time::Duration;

use api::chain;
use plan::node::Emulation;

use super::Finding;
use super::kvm::Kvm;
use crate::hypervisor::{Machine, MachineError};
use crate::libvirt::Version;

/// Below these versions nothing was ever tested.
const OLDEST_LIBVIRT: u32 = 11;
const OLDEST_QEMU: u32 = 8;
/// Less room than this, and a guest's first writes may fail.
const LEAST_SPACE_BYTES: u64 = 1 << 30;
/// A start waits this long where the host's name does not resolve.
const SLOW_NAME: Duration = Duration::from_secs(1);

/// The fix of a libvirtd that does not do what it should.
pub(super) const RESTART_LIBVIRTD: &str =
    "journalctl -u libvirtd says why; guests do not notice systemctl restart libvirtd";

/// A libvirt that does not answer.
pub(super) fn silent(uri: &str) -> Finding {
    Finding::bad(format!("libvirt at {uri} does not answer"), RESTART_LIBVIRTD)
}

/// How a guest that names no machine type is run.
pub(super) fn machine(found: Result<Machine, MachineError>) -> Finding {
    let error = match found {
        Ok(machine) => {
            return Finding::good(format!("q35 is {} of {}", machine.machine_type, machine.emulator.display()));
        }
        Err(error) => error,
    };
    let fix = match &error {
        MachineError::NoAccelerator(_) => "ovm-agent doctor tries KVM, and says what it lacks",
        MachineError::NoMachine { .. } => "install qemu-system-x86",
        MachineError::Libvirt(_) => RESTART_LIBVIRTD,
    };
    Finding::bad(chain(&error), fix)
}

/// libvirt's version, and QEMU's.
pub(super) fn versions(uri: &str, libvirt: Version, qemu: Option<Version>) -> Finding {
    let Some(qemu) = qemu else {
        return Finding::bad(format!("libvirt {libvirt} at {uri} finds no QEMU"), "install qemu-system-x86");
    };
    let seen = format!("libvirt {libvirt} and QEMU {qemu} at {uri}");
    if libvirt.major < OLDEST_LIBVIRT || qemu.major < OLDEST_QEMU {
        let fix = format!("install libvirt >= {OLDEST_LIBVIRT} and QEMU >= {OLDEST_QEMU}, both from one suite");
        return Finding::bad(seen, fix);
    }
    Finding::good(seen)
}

/// KVM, and whether guests may do without.
pub(super) fn kvm(kvm: &Kvm, emulation: Emulation) -> Finding {
    let fix = "enable virtualization in the firmware (nested, in a virtual machine), or allow emulation with OVM_EMULATION=fallback";
    match (kvm, emulation) {
        (_, Emulation::Always) => {
            Finding::odd("all guests are emulated (OVM_EMULATION=always)", "that is slow; unset it where KVM works")
        }
        (Kvm::Works { after }, _) => {
            Finding::good(format!("this host's kernel boots under it in {} ms", after.as_millis()))
        }
        (Kvm::NoDevice(why), Emulation::Fallback) => Finding::odd(why, "guests are emulated, which is slow"),
        // libvirt believes the device file, so that no guest falls back.
        (Kvm::Fails(why), Emulation::Fallback) => Finding::bad(
            why,
            "libvirt takes KVM to be usable, and guests hang: set OVM_EMULATION=always, or make KVM work",
        ),
        (Kvm::NoDevice(why) | Kvm::Fails(why), Emulation::Never) => Finding::bad(why, fix),
        (Kvm::Untried(why), Emulation::Never | Emulation::Fallback) => {
            Finding::odd(format!("not tried: {why}"), "run this as root on a host with its kernel in /boot to know")
        }
    }
}

/// Room for disks.
pub(super) fn space(directory: &str, free_bytes: u64) -> Finding {
    let seen = format!("{} MiB free below {directory}", free_bytes >> 20);
    if free_bytes < LEAST_SPACE_BYTES {
        return Finding::bad(
            format!("{seen}, less than {} MiB", LEAST_SPACE_BYTES >> 20),
            "a guest whose disk cannot grow stands still: free space there, perhaps with ovm-agent image prune",
        );
    }
    Finding::good(seen)
}

/// The host's own name.
pub(super) fn host_name(name: &str, resolved: Option<Duration>) -> Finding {
    let fix = format!("libvirt looks it up at each start of a guest, and waits: add a line for {name} to /etc/hosts");
    match resolved {
        Some(took) if took < SLOW_NAME => Finding::good(format!("{name} resolves")),
        Some(took) => Finding::odd(format!("{name} resolves after {} ms", took.as_millis()), fix),
        None => Finding::odd(format!("{name} does not resolve"), fix),
    }
}

#[cfg(test)]
mod tests {
    use plan::node::{OfferedAccelerators, choose_accelerator};

    use super::*;

    const fn version(major: u32) -> Version {
        Version { major, minor: 3, release: 0 }
    }

    fn is_bad(finding: &Finding) -> bool {
        matches!(finding, Finding::Bad { .. })
    }

    #[test]
    fn an_old_libvirt_or_no_qemu_is_refused() {
        assert!(!is_bad(&versions("qemu:///system", version(11), Some(version(10)))));
        assert!(is_bad(&versions("qemu:///system", version(9), Some(version(10)))));
        assert!(is_bad(&versions("qemu:///system", version(11), Some(version(7)))));
        assert!(is_bad(&versions("qemu:///system", version(11), None)));
    }

    #[test]
    fn kvm_that_does_not_work_is_bad_unless_guests_may_be_emulated() {
        let (none, hangs) = (Kvm::NoDevice("none".to_owned()), Kvm::Fails("hangs".to_owned()));
        for (kvm_seen, emulation, bad) in [
            (&none, Emulation::Never, true),
            (&none, Emulation::Fallback, false),
            (&hangs, Emulation::Never, true),
            (&hangs, Emulation::Fallback, true),
            (&hangs, Emulation::Always, false),
            (&Kvm::Works { after: Duration::ZERO }, Emulation::Never, false),
        ] {
            assert_eq!(is_bad(&kvm(kvm_seen, emulation)), bad, "{kvm_seen:?} {emulation:?}");
        }
        let untried = kvm(&Kvm::Untried("no kernel in /boot".to_owned()), Emulation::Never);
        assert!(untried.line("KVM").starts_with("warn  KVM: not tried: no kernel in /boot"), "{}", untried.line("KVM"));
    }

    #[test]
    fn each_line_of_what_is_wrong_names_its_fix() {
        assert!(
            space("/var/lib/ovm", 5)
                .line("disk space")
                .contains("0 MiB free below /var/lib/ovm, less than 1024 MiB; a guest")
        );
        let offered = OfferedAccelerators { kvm: false, emulated: true };
        let refused = choose_accelerator(Emulation::Never, offered).unwrap_err();
        let line = machine(Err(MachineError::NoAccelerator(refused))).line("machine types");
        assert!(line.contains("--emulation=fallback") && line.ends_with("says what it lacks"), "{line}");
        let none = MachineError::NoMachine { machine: "q35".to_owned(), why: "no emulator".to_owned() };
        assert!(machine(Err(none)).line("machine types").ends_with("no emulator; install qemu-system-x86"));
        let gone = silent("qemu:///system").line("machine types");
        assert!(gone.contains("qemu:///system does not answer; journalctl -u libvirtd"), "{gone}");
        assert!(host_name("h1", None).line("host name").contains("/etc/hosts"));
        assert_eq!(host_name("h1", Some(Duration::ZERO)).line("host name"), "ok    host name: h1 resolves");
    }
}
