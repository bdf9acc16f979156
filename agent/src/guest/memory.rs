//! What a worker remembers of its guest. All of it can be lost at any time: it saves work, or only this process could know it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::v1alpha1::{AbiStatus, InterfaceStatus, VirtualMachine};
use domain_xml::{Metadata, ObservedDomain, record_of};
use jiff::Timestamp;
use kube::ResourceExt;
use plan::node::{Resumes, Trouble};
use uuid::Uuid;

use super::disks::ReadyVolumes;
use super::fetch::Fetch;

/// What libvirt's events said of a guest since it was last looked at.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// The guest panicked: libvirt's state does not keep that apart from a crash of QEMU.
    pub(crate) panicked: AtomicBool,
    /// Its definition changed.
    pub(crate) redefined: AtomicBool,
}

/// A domain's description, as far as it is needed again and again.
#[derive(Clone, Debug)]
pub(super) struct Description {
    pub(super) uuid: Uuid,
    pub(super) vm_uid: String,
    pub(super) abi: AbiStatus,
    pub(super) interfaces: Vec<InterfaceStatus>,
}

/// The disks of one VM, ready for its domain.
#[derive(Clone, Debug)]
pub(super) struct ReadyDisks {
    pub(super) vm_uid: String,
    pub(super) volumes: ReadyVolumes,
    /// The domain was defined from them, by this process.
    pub(super) are_defined: bool,
}

/// The images of one VM, as far as it needs a registry for them.
#[derive(Debug)]
pub(super) struct Images {
    pub(super) vm_uid: String,
    pub(super) state: ImagesState,
}

/// How far they are.
#[derive(Debug)]
pub(super) enum ImagesState {
    /// To be asked for.
    Missing,
    /// On their way.
    OnTheirWay(Fetch),
    /// There. What is to be told of them, once.
    Fetched(Vec<String>),
}

/// What a worker remembers.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) hints: Arc<Hints>,
    /// VM UID of the run that `panic_seen`, `last_signal` and `trouble` are about.
    about: String,
    pub(super) panic_seen: bool,
    pub(super) last_signal: Option<Timestamp>,
    /// Attempts to let the guest go on after a failure of a disk.
    pub(super) resumes: Option<Resumes>,
    pub(super) trouble: Option<Trouble>,
    /// The step that `trouble` is about.
    pub(super) troubled_step: Option<&'static str>,
    pub(super) description: Option<Description>,
    pub(super) disks: Option<ReadyDisks>,
    pub(super) images: Option<Images>,
    /// VM UID whose volumes were given back after its end.
    pub(super) given_back: Option<String>,
    /// The answer to the last write or read of the VM: the watch may be behind it.
    pub(super) latest: Option<Arc<VirtualMachine>>,
    pub(super) last_state: &'static str,
}

impl Memory {
    pub(super) fn new(hints: Arc<Hints>) -> Self {
        Self {
            hints,
            about: String::new(),
            panic_seen: false,
            last_signal: None,
            resumes: None,
            trouble: None,
            troubled_step: None,
            description: None,
            disks: None,
            images: None,
            given_back: None,
            latest: None,
            last_state: "",
        }
    }

    /// Takes up what libvirt's events said.
    pub(super) fn take_hints(&mut self) {
        self.panic_seen |= self.hints.panicked.swap(false, Ordering::Relaxed);
        if self.hints.redefined.swap(false, Ordering::Relaxed) {
            self.description = None;
        }
    }

    /// Forgets what was remembered of another VM's run.
    pub(super) fn turn_to(&mut self, vm_uid: &str) {
        if self.about != vm_uid {
            vm_uid.clone_into(&mut self.about);
            self.last_signal = None;
            self.resumes = None;
            self.trouble = None;
            self.troubled_step = None;
            self.panic_seen = false;
            self.images = self.images.take().filter(|images| images.vm_uid == vm_uid);
        }
    }

    /// The newer of what the watch has and what this worker was answered. What the watch does not have is gone. Once the watch has caught up the
    /// answer is dropped: it would be a second copy of the object.
    pub(super) fn newest(&mut self, cached: Option<Arc<VirtualMachine>>) -> Option<Arc<VirtualMachine>> {
        let is_ahead = |latest: &Arc<VirtualMachine>| {
            cached.as_ref().is_some_and(|cached| latest.uid() == cached.uid() && version(latest) > version(cached))
        };
        self.latest = self.latest.take().filter(is_ahead);
        self.latest.clone().or(cached)
    }

    /// Remembers what libvirt settled for a domain.
    pub(super) fn keep_description(&mut self, domain: &ObservedDomain, metadata: &Metadata) -> &Description {
        let cards = domain.devices.iter().filter_map(|device| device.mac);
        self.description.insert(Description {
            uuid: domain.uuid,
            vm_uid: metadata.uid.clone(),
            abi: record_of(domain).to_status(None),
            interfaces: cards.map(|mac| InterfaceStatus { ip_address: None, mac: Some(mac.to_string()) }).collect(),
        })
    }
}

/// Resource versions are numbers that grow, says Kubernetes since 1.35; one that is not counts as oldest.
fn version(vm: &VirtualMachine) -> u64 {
    vm.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}
