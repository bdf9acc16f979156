//! Calls about domains. Each looks its domain up anew, so that a vanished one is an error and no handle outlives its connection.

use std::collections::HashMap;

use tokio::net::UnixStream;
use uuid::Uuid;
use virt::domain::Domain;

use super::Libvirt;
use super::connection::Connection;
use super::error::{Error, Failure, Target};
use super::ffi;
use super::state::DomainState;

/// The XML namespace of our own element in a domain's metadata.
const METADATA_URI: &str = "http://kubevirt.io";

/// The prefix that libvirt writes for [`METADATA_URI`].
const METADATA_PREFIX: &str = "kubevirt";

/// Everything that libvirt keeps beside a definition, and that would outlive it. NVRAM is the guest's own and goes with it.
const UNDEFINE_FLAGS: u32 = virt_sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | virt_sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | virt_sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | virt_sys::VIR_DOMAIN_UNDEFINE_NVRAM;

/// A domain as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSummary {
    /// The domain's UUID: the guest's firmware UUID.
    pub uuid: Uuid,
    /// The domain's name.
    pub name: String,
    /// libvirt's number of the running domain, new at each start; `None` when it does not run.
    pub id: Option<u32>,
    /// State and reason.
    pub state: DomainState,
    /// Whether libvirt keeps its definition when it stops.
    pub persistent: bool,
    /// Whether libvirt starts it with the host.
    pub autostart: bool,
    /// Whether a saved memory image waits to be resumed at the next ordinary start.
    pub has_managed_save: bool,
    /// Our metadata element, as XML; `None` for a domain that is not ours. Of a running domain: the live one.
    pub metadata: Option<String>,
}

/// What names a domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DomainIdentity {
    /// The domain's UUID.
    pub uuid: Uuid,
    /// The domain's name.
    pub name: String,
}

/// A disk of a running guest that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// Name of its target, such as `vda`.
    pub target: String,
    /// It had no space left; else it is an error of another kind.
    pub no_space: bool,
}

/// Which of a domain's two descriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XmlView {
    /// What runs now, with everything that libvirt filled in; of a domain that does not run, the definition.
    Live,
    /// What the next start will use.
    Defined,
}

impl Libvirt {
    /// Every domain on this host, ours or not, in libvirt's order.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_domains(&self) -> Result<Vec<DomainSummary>, Error> {
        self.call("list domains", Target::Host, self.options().call_deadline, list_domains).await
    }

    /// The domain with this UUID, or `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn find_domain(&self, uuid: Uuid) -> Result<Option<DomainSummary>, Error> {
        let found = self.on_domain("read", uuid, |_, domain| read_domain(domain)).await;
        none_if_missing(found)
    }

    /// The domain with this name, or `None` when there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn find_domain_by_name(&self, name: &str) -> Result<Option<DomainSummary>, Error> {
        let (target, name) = (Target::Name(name.to_owned()), name.to_owned());
        let read = move |connection: &Connection| {
            let domain = connection.connect().lookup_domain_by_name(&name)?;
            read_domain(&domain)
        };
        none_if_missing(self.call("read", target, self.options().call_deadline, read).await)
    }

    /// State and reason of a domain.
    ///
    /// # Errors
    /// [`Error::NoDomain`], and see [`Error`].
    pub async fn domain_state(&self, uuid: Uuid) -> Result<DomainState, Error> {
        self.on_domain("read the state of", uuid, |_, domain| ffi::domain_state(domain)).await
    }

    /// Defines a domain, or replaces the definition of the one with the same name and UUID **whoever it belongs to**: look first.
    ///
    /// The XML is not validated against libvirt's schema: that takes longer than the rest of the call, and would not stop `qemu:commandline`.
    ///
    /// # Errors
    /// [`Error::Refused`] when the XML is not acceptable, or its name or its UUID alone is taken; and see [`Error`].
    pub async fn define(&self, uuid: Uuid, xml: String) -> Result<DomainIdentity, Error> {
        let define = move |connection: &Connection| {
            let domain = connection.connect().define_domain_xml_flags(&xml, 0)?;
            Ok(DomainIdentity { uuid: domain.uuid()?, name: domain.name()? })
        };
        self.call("define", Target::Domain(uuid), self.options().start_deadline, define).await
    }

    /// Starts a defined domain from its definition. A saved memory image is thrown away, never resumed: it would bring back old memory and an old
    /// configuration.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Error::is_wrong_state`] when it runs already. After [`Error::Deadline`] it may start yet. And see [`Error`].
    pub async fn start(&self, uuid: Uuid) -> Result<(), Error> {
        let start = move |connection: &Connection| {
            let domain = connection.connect().lookup_domain_by_uuid(uuid)?;
            domain.create_with_flags(connection.qemu_flags(virt_sys::VIR_DOMAIN_START_FORCE_BOOT))?;
            Ok(())
        };
        self.call("start", Target::Domain(uuid), self.options().start_deadline, start).await
    }

    /// Presses the guest's ACPI power button. A guest that is booting drops it, so press again.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Error::is_wrong_state`] when it does not run; and see [`Error`].
    pub async fn shut_down(&self, uuid: Uuid) -> Result<(), Error> {
        let press = |connection: &Connection, domain: &Domain| {
            Ok(domain.shutdown_flags(connection.qemu_flags(virt_sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN))?)
        };
        self.on_domain("shut down", uuid, press).await
    }

    /// Lets a paused guest go on. What it was paused in is tried again: a write that its disk did not take is made once more.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Error::is_wrong_state`] when it is not paused; and see [`Error`].
    pub async fn resume(&self, uuid: Uuid) -> Result<(), Error> {
        self.on_domain("resume", uuid, |_, domain| Ok(domain.resume()?)).await
    }

    /// The disks of a running guest that failed.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Error::is_wrong_state`] when it does not run; and see [`Error`].
    pub async fn disk_errors(&self, uuid: Uuid) -> Result<Vec<DiskError>, Error> {
        self.on_domain("read the disk errors of", uuid, |_, domain| ffi::disk_errors(domain)).await
    }

    /// Ends a guest's process: SIGTERM, then SIGKILL. The definition stays.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Error::is_wrong_state`] when it does not run; and see [`Error`].
    pub async fn destroy(&self, uuid: Uuid) -> Result<(), Error> {
        let destroy = move |connection: &Connection| Ok(connection.connect().lookup_domain_by_uuid(uuid)?.destroy()?);
        self.call("destroy", Target::Domain(uuid), self.options().destroy_deadline, destroy).await
    }

    /// Removes a definition with all that libvirt keeps beside it. A domain that runs keeps running and is gone when it stops.
    ///
    /// # Errors
    /// [`Error::NoDomain`], and see [`Error`].
    pub async fn undefine(&self, uuid: Uuid) -> Result<(), Error> {
        let undefine = |connection: &Connection, domain: &Domain| {
            Ok(domain.undefine_flags(connection.qemu_flags(UNDEFINE_FLAGS))?)
        };
        self.on_domain("undefine", uuid, undefine).await
    }

    /// Takes a domain off the list of those that libvirt starts with the host.
    ///
    /// # Errors
    /// [`Error::NoDomain`], and see [`Error`].
    pub async fn disable_autostart(&self, uuid: Uuid) -> Result<(), Error> {
        self.on_domain("disable autostart of", uuid, |_, domain| Ok(domain.set_autostart(false)?)).await
    }

    /// A domain's description, without its secrets.
    ///
    /// # Errors
    /// [`Error::NoDomain`], and see [`Error`].
    pub async fn domain_xml(&self, uuid: Uuid, view: XmlView) -> Result<String, Error> {
        let flags = match view {
            XmlView::Live => 0,
            XmlView::Defined => virt_sys::VIR_DOMAIN_XML_INACTIVE,
        };
        self.on_domain("read the XML of", uuid, move |_, domain| Ok(domain.xml_desc(flags)?)).await
    }

    /// Replaces our metadata element: in the definition, and in the running domain if it runs.
    ///
    /// `element` is one XML element, whose own name and namespace prefix libvirt replaces by ours.
    ///
    /// # Errors
    /// [`Error::NoDomain`], [`Error::Refused`] when it is not XML; and see [`Error`].
    pub async fn set_metadata(&self, uuid: Uuid, element: String) -> Result<(), Error> {
        self.on_domain("set the metadata of", uuid, move |_, domain| set_metadata(domain, &element)).await
    }

    /// A socket to a running guest's first display, speaking its protocol (VNC).
    ///
    /// # Errors
    /// [`Error::Refused`] when it does not run or has no display; and see [`Error`].
    pub async fn open_graphics(&self, uuid: Uuid) -> Result<UnixStream, Error> {
        let open = |_: &Connection, domain: &Domain| {
            let unusable = |error: std::io::Error| Failure::internal(format!("unusable display socket: {error}"));
            let socket = std::os::unix::net::UnixStream::from(ffi::graphics_fd(domain, 0)?);
            socket.set_nonblocking(true).map_err(unusable)?;
            Ok(socket)
        };
        let (operation, target) = ("open the display of", Target::Domain(uuid));
        let socket = self.on_domain(operation, uuid, open).await?;
        UnixStream::from_std(socket).map_err(|error| Error::Refused {
            operation,
            target,
            source: Failure::internal(error.to_string()),
        })
    }

    /// Looks a domain up and runs one ordinary call on it.
    async fn on_domain<T, F>(&self, operation: &'static str, uuid: Uuid, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &Domain) -> Result<T, Failure> + Send + 'static,
    {
        let work = move |connection: &Connection| {
            let domain = connection.connect().lookup_domain_by_uuid(uuid)?;
            work(connection, &domain)
        };
        self.call(operation, Target::Domain(uuid), self.options().call_deadline, work).await
    }
}

/// Five calls for all domains and one for the metadata of each, instead of six for each.
fn list_domains(connection: &Connection) -> Result<Vec<DomainSummary>, Failure> {
    let connect = connection.connect();
    let with = |flag: u32| -> Result<HashMap<Uuid, Domain>, Failure> {
        let domains = connect.list_all_domains(flag)?;
        domains.into_iter().map(|domain| Ok((domain.uuid()?, domain))).collect()
    };
    let all = with(0)?;
    let persistent = with(virt_sys::VIR_CONNECT_LIST_DOMAINS_PERSISTENT)?;
    let autostart = with(virt_sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
    let managed_save = with(virt_sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
    let mut summaries = Vec::with_capacity(all.len());
    for record in ffi::all_states(connect)? {
        // One that came meanwhile will be in the next list.
        let Some(domain) = all.get(&record.uuid) else { continue };
        let metadata = match read_metadata(domain) {
            // It went away meanwhile.
            Err(failure) if failure.is_no_domain() => continue,
            metadata => metadata?,
        };
        summaries.push(DomainSummary {
            persistent: persistent.contains_key(&record.uuid),
            autostart: autostart.contains_key(&record.uuid),
            has_managed_save: managed_save.contains_key(&record.uuid),
            uuid: record.uuid,
            name: record.name,
            id: record.id,
            state: record.state,
            metadata,
        });
    }
    Ok(summaries)
}

fn read_domain(domain: &Domain) -> Result<DomainSummary, Failure> {
    Ok(DomainSummary {
        uuid: domain.uuid()?,
        name: domain.name()?,
        id: domain.id(),
        state: ffi::domain_state(domain)?,
        persistent: domain.is_persistent()?,
        autostart: domain.autostart()?,
        has_managed_save: domain.has_managed_save(0)?,
        metadata: read_metadata(domain)?,
    })
}

fn read_metadata(domain: &Domain) -> Result<Option<String>, Failure> {
    let kind = virt_sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    match domain.metadata(kind, Some(METADATA_URI), virt_sys::VIR_DOMAIN_AFFECT_CURRENT) {
        Ok(xml) => Ok(Some(xml)),
        Err(error) if error.code().to_raw() == virt_sys::VIR_ERR_NO_DOMAIN_METADATA => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn set_metadata(domain: &Domain, element: &str) -> Result<(), Failure> {
    if element.contains('\0') {
        // virt would panic on it.
        return Err(Failure::internal("the metadata holds a NUL character"));
    }
    let live = if domain.is_active()? { virt_sys::VIR_DOMAIN_AFFECT_LIVE } else { 0 };
    let kind = virt_sys::VIR_DOMAIN_METADATA_ELEMENT.cast_signed();
    let flags = virt_sys::VIR_DOMAIN_AFFECT_CONFIG | live;
    domain.set_metadata(kind, Some(element), Some(METADATA_PREFIX), Some(METADATA_URI), flags)?;
    Ok(())
}

fn none_if_missing(found: Result<DomainSummary, Error>) -> Result<Option<DomainSummary>, Error> {
    match found {
        Ok(summary) => Ok(Some(summary)),
        Err(Error::NoDomain { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
