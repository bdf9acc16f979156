//! A VirtualMachine's spec with every value checked and every default filled in that needs no node: what building a guest starts from.
//!
//! Made by [`crate::admission::validate_vm_spec`] alone; building from it cannot fail for a reason that the user could have been told.

use std::fmt;

use uuid::Uuid;

/// A spec whose every value has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedSpec {
    /// Memory of the guest in KiB, never less than the request.
    pub memory_kib: u64,
    /// Processor share that placement counts, in thousandths of a core.
    pub cpu_request_millis: u64,
    /// Number of virtual cores, at least 1.
    pub cores: u32,
    /// Machine type as the user gave it; none means the node's `q35`.
    pub machine_type: Option<String>,
    /// Firmware UUID as the user gave it.
    pub firmware_uuid: Option<Uuid>,
    /// The guest's clock.
    pub clock: ValidatedClock,
    /// Features of the hypervisor.
    pub features: ValidatedFeatures,
    /// Disks, in the user's order. Names are unique.
    pub disks: Vec<ValidatedDisk>,
    /// Volumes, in the user's order. Names are unique.
    pub volumes: Vec<ValidatedVolume>,
    /// The watchdog.
    pub watchdog: Option<ValidatedWatchdog>,
    /// Seconds between the request to shut down and the power-off; 0 is at once.
    pub grace_period_seconds: u64,
}

/// The guest's clock and timers. A timer is none where the user said nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedClock {
    /// What the clock is set to.
    pub base: ClockBase,
    /// High precision event timer.
    pub hpet: Option<TimerSetting>,
    /// KVM's paravirtual clock.
    pub kvm: Option<TimerSetting>,
    /// Programmable interval timer.
    pub pit: Option<TimerSetting>,
    /// Real time clock.
    pub rtc: Option<TimerSetting>,
    /// Hyper-V's reference time counter.
    pub hyperv: Option<TimerSetting>,
}

/// What a guest's clock is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockBase {
    /// UTC plus this many seconds.
    Utc {
        /// Seconds between UTC and the guest's clock.
        offset_seconds: i64,
    },
    /// A time zone of the host's database.
    Timezone(String),
}

/// One timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerSetting {
    /// Whether the guest sees it.
    pub present: bool,
    /// What happens to ticks that the guest missed.
    pub tick_policy: Option<TickPolicy>,
    /// What it follows; `rtc` only.
    pub track: Option<TimerTrack>,
}

/// Defines an enum whose variants are words on the wire.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$doc])* $variant),+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word on the wire and in domain XML.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value that a word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// What happens to ticks that a guest missed.
    TickPolicy {
        /// Delivered late, at the normal rate.
        Delay = "delay",
        /// Delivered late, at a higher rate.
        Catchup = "catchup",
        /// Merged into one.
        Merge = "merge",
        /// Thrown away.
        Discard = "discard",
    }
}

words! {
    /// What the real time clock follows.
    TimerTrack {
        /// The guest's time.
        Guest = "guest",
        /// The host's time.
        Wall = "wall",
    }
}

words! {
    /// The bus of a disk, LUN or CD-ROM.
    DiskBus {
        /// Paravirtual block device.
        Virtio = "virtio",
        /// AHCI.
        Sata = "sata",
        /// SCSI, behind a virtio controller.
        Scsi = "scsi",
        /// IDE; not on q35.
        Ide = "ide",
        /// USB mass storage.
        Usb = "usb",
    }
}

words! {
    /// State of a removable medium's tray.
    Tray {
        /// Open: the guest sees no medium.
        Open = "open",
        /// Closed.
        Closed = "closed",
    }
}

words! {
    /// What a watchdog does when it fires.
    WatchdogAction {
        /// Powers the guest off.
        Poweroff = "poweroff",
        /// Resets it.
        Reset = "reset",
        /// Asks it to shut down.
        Shutdown = "shutdown",
    }
}

/// Features of the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedFeatures {
    /// ACPI.
    pub acpi: bool,
    /// Local interrupt controller: none is off, else whether the paravirtual end-of-interrupt is offered (none: not said).
    pub apic: Option<Apic>,
    /// Hyper-V enlightenments.
    pub hyperv: Option<Hyperv>,
}

/// Local interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apic {
    /// Paravirtual end-of-interrupt; none where the user said nothing.
    pub end_of_interrupt: Option<bool>,
}

/// Hyper-V enlightenments; none where the user said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hyperv {
    /// Relaxed timing constraints.
    pub relaxed: Option<bool>,
    /// Virtual APIC.
    pub vapic: Option<bool>,
    /// Spinlock retries: none is off, at least 4095.
    pub spinlocks: Option<Option<u32>>,
    /// Virtual processor index.
    pub vpindex: Option<bool>,
    /// Processor time spent in the guest.
    pub runtime: Option<bool>,
    /// Synthetic interrupt controller.
    pub synic: Option<bool>,
    /// Synthetic timers.
    pub synictimer: Option<bool>,
    /// Reset through the hypervisor.
    pub reset: Option<bool>,
    /// Vendor: the inner none is off, else at most 12 characters without comma.
    pub vendorid: Option<Option<String>>,
}

/// A disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedDisk {
    /// Name, a DNS label.
    pub name: String,
    /// Index of its volume in [`ValidatedSpec::volumes`].
    pub volume: usize,
    /// What the guest sees.
    pub device: DiskDevice,
}

/// What the guest sees of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDevice {
    /// A hard disk.
    Disk {
        /// Its bus.
        bus: DiskBus,
        /// Whether the guest may only read.
        readonly: bool,
    },
    /// A SCSI device passed through.
    Lun {
        /// Its bus: scsi or virtio.
        bus: DiskBus,
        /// Whether the guest may only read.
        readonly: bool,
    },
    /// A floppy disk.
    Floppy {
        /// Whether the guest may only read.
        readonly: bool,
        /// Its tray.
        tray: Tray,
    },
    /// A CD-ROM.
    Cdrom {
        /// Its bus: sata, scsi, ide or usb.
        bus: DiskBus,
        /// Whether the guest may only read.
        readonly: bool,
        /// Its tray.
        tray: Tray,
    },
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedVolume {
    /// Name, a DNS label.
    pub name: String,
    /// Where its content comes from.
    pub source: VolumeSource,
}

/// Where a volume's content comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A claim that the guest writes to.
    PersistentVolumeClaim {
        /// Name of the claim.
        claim_name: String,
        /// Whether the guest may only read.
        read_only: bool,
    },
    /// A cloud-init seed.
    CloudInitNoCloud(UserData),
    /// An image.
    RegistryDisk {
        /// Its name, as the user wrote it.
        image: String,
        /// Secret with the registry's credentials.
        image_pull_secret: Option<String>,
    },
    /// A claim that is only read; writes go to a layer that ends with the VM.
    Ephemeral {
        /// Name of the claim.
        claim_name: String,
    },
    /// An empty disk.
    EmptyDisk {
        /// Its size in bytes, a multiple of 512.
        capacity_bytes: u64,
    },
}

/// User data of a cloud-init seed. Its content is in no debug output: it may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum UserData {
    /// The bytes themselves, at most 2048.
    Inline(Vec<u8>),
    /// The key `userdata` of this Secret in the guest's namespace.
    Secret {
        /// Name of the Secret.
        name: String,
    },
}

impl fmt::Debug for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Secret { name } => write!(f, "Secret({name:?})"),
        }
    }
}

/// A watchdog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedWatchdog {
    /// Name, a DNS label.
    pub name: String,
    /// What it does when it fires.
    pub action: WatchdogAction,
}
