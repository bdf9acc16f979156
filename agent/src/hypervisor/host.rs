//! How guests run on this host: KVM or emulation, and what a machine type's alias stands for. Asked of libvirt once, and again after it restarted.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use domain_xml::{Acceleration, DEFAULT_TB_CACHE_MIB};
use plan::node::{Accelerator, Emulation, OfferedAccelerators, choose_accelerator};

use super::Hypervisor;
use crate::libvirt::{EmulatorFacts, Error, Usability, VirtType};

/// What a guest gets that names no machine type.
const DEFAULT_MACHINE: &str = "q35";

/// How a guest is run on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// KVM or emulation.
    pub acceleration: Acceleration,
    /// QEMU's binary.
    pub emulator: PathBuf,
    /// Machine type with its version, such as `pc-q35-10.0`.
    pub machine_type: String,
}

/// Why a guest cannot be run on this host.
#[derive(Clone, Debug, thiserror::Error)]
pub enum MachineError {
    /// Neither KVM, nor emulation that is allowed.
    #[error("{0}")]
    NoAccelerator(String),
    /// QEMU has no such machine.
    #[error("machine type {machine} cannot be used on this node: {why}")]
    NoMachine {
        /// What was asked for.
        machine: String,
        /// libvirt's words.
        why: String,
    },
    /// libvirt did not say.
    #[error(transparent)]
    Libvirt(#[from] Error),
}

impl MachineError {
    /// One word for conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoAccelerator(_) => "EmulationRefused",
            Self::NoMachine { .. } => "MachineTypeUnusable",
            Self::Libvirt(error) => error.reason(),
        }
    }
}

/// Answers of libvirt about the host, kept.
pub struct Capabilities {
    hypervisor: Arc<dyn Hypervisor>,
    emulation: Emulation,
    known: Mutex<BTreeMap<(&'static str, String), Usability>>,
}

impl Capabilities {
    /// Capabilities of the hypervisor's host, for an administrator's choice of emulation.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, emulation: Emulation) -> Self {
        Self { hypervisor, emulation, known: Mutex::default() }
    }

    /// How a guest of this machine type is run; without one, of the default's.
    ///
    /// # Errors
    /// If it cannot be run, or libvirt does not answer.
    pub async fn machine(&self, machine: Option<&str>) -> Result<Machine, MachineError> {
        let machine = machine.unwrap_or(DEFAULT_MACHINE);
        let kvm = self.usability(VirtType::Kvm, DEFAULT_MACHINE).await?;
        let emulated = self.usability(VirtType::Qemu, DEFAULT_MACHINE).await?;
        let offered = OfferedAccelerators { kvm: is_usable(&kvm), emulated: is_usable(&emulated) };
        let (virt_type, acceleration) = match choose_accelerator(self.emulation, offered)
            .map_err(MachineError::NoAccelerator)?
        {
            Accelerator::Kvm => (VirtType::Kvm, Acceleration::Kvm),
            Accelerator::Emulated => (VirtType::Qemu, Acceleration::Emulation { tb_cache_mib: DEFAULT_TB_CACHE_MIB }),
        };
        match self.usability(virt_type, machine).await? {
            Usability::Usable(EmulatorFacts { path, machine: machine_type, .. }) => {
                Ok(Machine { acceleration, emulator: path.into(), machine_type })
            }
            Usability::Unusable(why) => Err(MachineError::NoMachine { machine: machine.to_owned(), why }),
        }
    }

    /// Forgets all answers: libvirt was restarted, perhaps with another QEMU.
    pub fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Forgets refusals: what was missing may have been installed meanwhile.
    pub fn forget_refusals(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, usability| is_usable(usability));
    }

    async fn usability(&self, virt_type: VirtType, machine: &str) -> Result<Usability, Error> {
        let key = (virt_type.name(), machine.to_owned());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let answer = self.hypervisor.emulator(virt_type, machine).await?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer.clone());
        Ok(answer)
    }
}

fn is_usable(usability: &Usability) -> bool {
    matches!(usability, Usability::Usable(_))
}
