//! Whether a guest runs under KVM or is emulated, and what to say where it may not run at all.

use std::fmt;
use std::str::FromStr;

/// The administrator's choice (`--emulation`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emulation {
    /// KVM only.
    #[default]
    Never,
    /// KVM where libvirt offers it, else emulation.
    Fallback,
    /// Emulation, even where libvirt offers KVM (`/dev/kvm` present does not mean that KVM works).
    Always,
}

impl Emulation {
    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Fallback => "fallback",
            Self::Always => "always",
        }
    }
}

impl fmt::Display for Emulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Emulation {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "never" => Ok(Self::Never),
            "fallback" => Ok(Self::Fallback),
            "always" => Ok(Self::Always),
            other => Err(format!("`{other}` is none of never, fallback, always")),
        }
    }
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's translator.
    Emulated,
}

/// Which accelerators libvirt's domain capabilities offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfferedAccelerators {
    /// `type='kvm'`.
    pub kvm: bool,
    /// `type='qemu'`.
    pub emulated: bool,
}

/// Chooses the accelerator.
///
/// # Errors
/// The sentence for the user when no guest may run here.
pub fn choose_accelerator(emulation: Emulation, offered: OfferedAccelerators) -> Result<Accelerator, String> {
    match (emulation, offered) {
        (Emulation::Never | Emulation::Fallback, OfferedAccelerators { kvm: true, .. }) => Ok(Accelerator::Kvm),
        (Emulation::Fallback | Emulation::Always, OfferedAccelerators { emulated: true, .. }) => Ok(Accelerator::Emulated),
        (Emulation::Never, OfferedAccelerators { emulated: true, .. }) => {
            Err("libvirt offers no KVM on this node, and emulation is off; allow it with --emulation=fallback (guests will be slow)".to_owned())
        }
        (Emulation::Never | Emulation::Fallback | Emulation::Always, _) => {
            Err("libvirt offers no x86_64 QEMU on this node; install qemu-system-x86".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerator_follows_option_and_capabilities() {
        let offer = |kvm, emulated| OfferedAccelerators { kvm, emulated };
        let table = [
            (Emulation::Never, offer(true, true), Some(Accelerator::Kvm)),
            (Emulation::Never, offer(false, true), None),
            (Emulation::Fallback, offer(true, true), Some(Accelerator::Kvm)),
            (Emulation::Fallback, offer(false, true), Some(Accelerator::Emulated)),
            (Emulation::Always, offer(true, true), Some(Accelerator::Emulated)),
            (Emulation::Always, offer(true, false), None),
            (Emulation::Fallback, offer(false, false), None),
        ];
        for (emulation, offered, expected) in table {
            assert_eq!(choose_accelerator(emulation, offered).ok(), expected, "{emulation:?} {offered:?}");
        }
        let refusal = choose_accelerator(Emulation::Never, offer(false, true)).expect_err("refused");
        assert!(refusal.contains("--emulation=fallback"), "the refusal names the fix: {refusal}");
    }
}
