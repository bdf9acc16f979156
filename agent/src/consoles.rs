//! Consoles of this node's guests, for the controller to hand on.

use kube::ResourceExt;
use plan::node::GuestKey;
use tokio::io::{AsyncRead, AsyncWrite};
use uuid::Uuid;

use crate::libvirt::{Error, Libvirt};
use crate::node::VmCache;

/// Opens consoles of this node's guests. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Consoles {
    pub(crate) libvirt: Libvirt,
    pub(crate) vms: VmCache,
}

/// Why a console was not opened.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// No such guest on this node.
    #[error("virtual machine {namespace}/{name} ({uid}) does not run on this node")]
    NotHere {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// libvirt did not open it.
    #[error("open the console")]
    Libvirt(#[from] Error),
}

/// A console: what the guest writes can be read, what is written the guest reads.
pub trait DuplexStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> DuplexStream for T {}

impl Consoles {
    /// Opens the serial console of a guest, and takes it from whoever has it open.
    ///
    /// # Errors
    /// If the guest does not run here, or libvirt refuses.
    pub async fn open_serial(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Box<dyn DuplexStream>, ConsoleError> {
        let domain = self.running_domain(namespace, name, uid).await?;
        Ok(Box::new(self.libvirt.open_console(domain).await?))
    }

    /// Opens the display of a guest, as RFB.
    ///
    /// # Errors
    /// If the guest does not run here, or libvirt refuses.
    pub async fn open_display(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Box<dyn DuplexStream>, ConsoleError> {
        let domain = self.running_domain(namespace, name, uid).await?;
        Ok(Box::new(self.libvirt.open_graphics(domain).await?))
    }

    /// UUID of the running domain of a VM.
    async fn running_domain(&self, namespace: &str, name: &str, uid: &str) -> Result<Uuid, ConsoleError> {
        let key = GuestKey { namespace: namespace.to_owned(), name: name.to_owned() };
        let not_here =
            || ConsoleError::NotHere { namespace: namespace.to_owned(), name: name.to_owned(), uid: uid.to_owned() };
        if self.vms.get(&key).and_then(|vm| vm.uid()).as_deref() != Some(uid) {
            return Err(not_here());
        }
        let domain_name = domain_xml::DomainName::new(namespace, name);
        let found = self.libvirt.find_domain_by_name(domain_name.as_str()).await?;
        let domain = found.filter(|domain| domain.state.is_active()).ok_or_else(not_here)?;
        let is_its_own = domain
            .metadata
            .as_deref()
            .and_then(|xml| domain_xml::parse_metadata(xml).ok())
            .is_some_and(|own| own.uid == uid);
        if !is_its_own {
            return Err(not_here());
        }
        Ok(domain.uuid)
    }
}
