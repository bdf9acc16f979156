//! What the agent needs of a hypervisor. libvirt is the one that there is; tests have a fake with the same manners.

mod host;
mod on_libvirt;

use futures::future::BoxFuture;
use uuid::Uuid;

pub use host::{Capabilities, Machine, MachineError};

use crate::libvirt::{DiskError, DomainSummary, Error, Usability, VirtType, XmlView};

/// The domains of this host. Every method has a deadline of its own and fails rather than waits.
pub trait Hypervisor: Send + Sync + 'static {
    /// The domain of this name.
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<DomainSummary>, Error>>;

    /// All domains, ours or not.
    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainSummary>, Error>>;

    /// A domain's description.
    fn describe(&self, uuid: Uuid, view: XmlView) -> BoxFuture<'_, Result<String, Error>>;

    /// Defines a domain, over one of the same name and UUID whoever owns it: look first.
    fn define(&self, uuid: Uuid, xml: String) -> BoxFuture<'_, Result<(), Error>>;

    /// Replaces our element in a domain's metadata.
    fn set_metadata(&self, uuid: Uuid, element: String) -> BoxFuture<'_, Result<(), Error>>;

    /// Changes a domain's life.
    fn change(&self, uuid: Uuid, change: DomainChange) -> BoxFuture<'_, Result<(), Error>>;

    /// Which disks of a domain that runs have failed.
    fn disk_errors(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<DiskError>, Error>>;

    /// Whether no call about this domain is under way any more, past its deadline or not.
    fn is_quiet(&self, uuid: Uuid) -> bool;

    /// Whether and how guests of this kind run here.
    fn emulator<'a>(&'a self, virt_type: VirtType, machine: &'a str) -> BoxFuture<'a, Result<Usability, Error>>;
}

/// A change of a domain's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainChange {
    /// Start from the definition, never from a saved image.
    Start,
    /// Let it go on after a pause.
    Resume,
    /// Press the power button.
    ShutDown,
    /// End QEMU.
    Destroy,
    /// Remove the definition.
    Undefine,
}
