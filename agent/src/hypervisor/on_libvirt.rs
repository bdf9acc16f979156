//! The hypervisor that there is.

use futures::FutureExt;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::{DomainChange, Hypervisor};
use crate::libvirt::{DiskError, DomainSummary, Error, Libvirt, Target, Usability, VirtType, XmlView};

/// The one architecture that guests have.
const ARCH: &str = "x86_64";

impl Hypervisor for Libvirt {
    fn find<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<DomainSummary>, Error>> {
        self.find_domain_by_name(name).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<DomainSummary>, Error>> {
        self.list_domains().boxed()
    }

    fn describe(&self, uuid: Uuid, view: XmlView) -> BoxFuture<'_, Result<String, Error>> {
        self.domain_xml(uuid, view).boxed()
    }

    fn define(&self, uuid: Uuid, xml: String) -> BoxFuture<'_, Result<(), Error>> {
        async move { self.define(uuid, xml).await.map(drop) }.boxed()
    }

    fn set_metadata(&self, uuid: Uuid, element: String) -> BoxFuture<'_, Result<(), Error>> {
        self.set_metadata(uuid, element).boxed()
    }

    fn change(&self, uuid: Uuid, change: DomainChange) -> BoxFuture<'_, Result<(), Error>> {
        match change {
            DomainChange::Start => self.start(uuid).boxed(),
            DomainChange::Resume => self.resume(uuid).boxed(),
            DomainChange::ShutDown => self.shut_down(uuid).boxed(),
            DomainChange::Destroy => self.destroy(uuid).boxed(),
            DomainChange::Undefine => self.undefine(uuid).boxed(),
        }
    }

    fn disk_errors(&self, uuid: Uuid) -> BoxFuture<'_, Result<Vec<DiskError>, Error>> {
        self.disk_errors(uuid).boxed()
    }

    fn is_quiet(&self, uuid: Uuid) -> bool {
        self.unanswered(&Target::Domain(uuid)).is_empty()
    }

    fn emulator<'a>(&'a self, virt_type: VirtType, machine: &'a str) -> BoxFuture<'a, Result<Usability, Error>> {
        self.emulator(ARCH, virt_type, machine).boxed()
    }
}
