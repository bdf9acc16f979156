//! Who this agent is: which installation, which node. It touches only domains that carry both.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use domain_xml::{Metadata, parse_metadata};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use plan::node::{FirmwareFacts, GuestKey, firmware_uuid};
use tracing::warn;
use uuid::Uuid;

use crate::libvirt::DomainSummary;
use crate::objects::{ApiError, within};

/// The namespace whose UID is the cluster's.
const CLUSTER_NAMESPACE: &str = "kube-system";
/// File with the installation's UID: the agent must know its domains while the API is away.
const FILE: &str = "installation";
/// The kernel's name for this boot.
const BOOT_ID: &str = "sys/kernel/random/boot_id";

/// Who this agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// UID of the cluster, which is the installation.
    pub cluster_uid: Uuid,
    /// Name of the node.
    pub node: String,
}

/// Why the agent does not know which installation it belongs to.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The API did not say, and it never has.
    #[error("the API server does not tell the cluster's UID; is it up, and is the kubeconfig right?")]
    Api(#[from] ApiError),
    /// The namespace has no usable UID.
    #[error("namespace kube-system has no UID")]
    NoUid,
    /// The file cannot be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl NodeIdentity {
    /// Asks the API, or where that is away, what it said last.
    ///
    /// # Errors
    /// If neither says.
    pub async fn load(client: &Client, directory: &Path, node: &str) -> Result<Self, IdentityError> {
        let path = directory.join(FILE);
        let failed = |source| IdentityError::File { path: path.clone(), source };
        let stored = match fs::read_to_string(&path) {
            Ok(text) => Uuid::parse_str(text.trim()).ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let cluster_uid = match (within("get namespace", namespaces.get(CLUSTER_NAMESPACE)).await, stored) {
            (Ok(namespace), _) => {
                namespace.uid().and_then(|uid| Uuid::parse_str(&uid).ok()).ok_or(IdentityError::NoUid)?
            }
            (Err(error), Some(stored)) => {
                warn!(%error, installation = %stored, "the API is away; going on as the installation that it named last");
                stored
            }
            (Err(error), None) => return Err(error.into()),
        };
        if stored != Some(cluster_uid) {
            if let Some(stored) = stored {
                warn!(was = %stored, is = %cluster_uid, "this agent now belongs to another cluster; guests of the former one are not touched");
            }
            fs::write(&path, format!("{cluster_uid}\n")).map_err(failed)?;
        }
        Ok(Self { cluster_uid, node: node.to_owned() })
    }

    /// The installation, as domains carry it.
    pub fn installation(&self) -> String {
        self.cluster_uid.to_string()
    }

    /// The metadata of a domain of ours.
    ///
    /// # Errors
    /// Whose domain it is, in words for the user.
    pub fn own_metadata(&self, domain: &DomainSummary) -> Result<Metadata, String> {
        let name = &domain.name;
        let Some(element) = &domain.metadata else {
            return Err(format!(
                "domain {name} ({}) of libvirt is in the way: no VirtualMachine made it; rename or remove it",
                domain.uuid
            ));
        };
        let metadata = parse_metadata(element)
            .map_err(|error| format!("domain {name} of libvirt is in the way: its metadata is broken ({error})"))?;
        if metadata.installation != self.installation() {
            return Err(format!(
                "domain {name} of libvirt is in the way: it belongs to installation {}",
                metadata.installation
            ));
        }
        if metadata.node != self.node {
            return Err(format!("domain {name} of libvirt is in the way: it belongs to node {}", metadata.node));
        }
        Ok(metadata)
    }

    /// The firmware UUID that a guest of an OfflineVirtualMachine has unless something else is said.
    pub fn derived_uuid(&self, key: &GuestKey) -> Uuid {
        let facts = FirmwareFacts {
            cluster_uid: self.cluster_uid,
            key,
            vm_uid: "",
            has_controller: true,
            given: None,
            recorded: None,
        };
        firmware_uuid(&facts)
    }
}

/// What tells this boot of the host from others. A host that does not say is taken to have booted just now.
pub(crate) fn boot_id(proc_dir: &Path) -> String {
    let read = fs::read_to_string(proc_dir.join(BOOT_ID));
    read.map_or_else(|_| Uuid::new_v4().to_string(), |text| text.trim().to_owned())
}
