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
use crate::proc::ProcError;

/// The namespace whose UID is the cluster's.
const CLUSTER_NAMESPACE: &str = "kube-system";
/// File with the installation's UID: the agent must know its domains while the API is away.
const FILE: &str = "installation";
/// File with the node's name, which a host that is renamed keeps.
const NODE_FILE: &str = "node";
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

/// What a host was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormerNode {
    /// Its name.
    pub node: String,
    /// The domains that run under it.
    pub domains: Vec<String>,
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

/// The name of this host's node unless one is given: the one that it had, or at its first start the host's.
///
/// # Errors
/// If the host has no name, or none that is text.
pub fn default_node_name(data_dir: &Path) -> io::Result<String> {
    let stored = fs::read_to_string(data_dir.join(NODE_FILE)).unwrap_or_default();
    if !stored.trim().is_empty() {
        return Ok(stored.trim().to_owned());
    }
    let not_text = |name: std::ffi::OsString| io::Error::other(format!("{} is no text", name.display()));
    // Names of objects have no capital letters.
    nix::unistd::gethostname()?.into_string().map(|name| name.to_lowercase()).map_err(not_text)
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

    /// Writes the node's name down, for [`default_node_name`].
    ///
    /// # Errors
    /// If that fails.
    pub fn keep_name(&self, directory: &Path) -> Result<(), IdentityError> {
        let (path, text) = (directory.join(NODE_FILE), format!("{}\n", self.node));
        if fs::read_to_string(&path).ok().as_ref() == Some(&text) {
            return Ok(());
        }
        fs::write(&path, text).map_err(|source| IdentityError::File { path, source })
    }

    /// The node under whose name guests of this installation run here, where it is not this one.
    pub fn former_node(&self, domains: &[DomainSummary]) -> Option<FormerNode> {
        let of_others = domains.iter().filter(|domain| domain.state.is_active()).filter_map(|domain| {
            let metadata = parse_metadata(domain.metadata.as_ref()?).ok()?;
            let is_former = metadata.installation == self.installation() && metadata.node != self.node;
            is_former.then(|| (metadata.node, domain.name.clone()))
        });
        let mut former: Option<FormerNode> = None;
        for (node, domain) in of_others {
            former.get_or_insert_with(|| FormerNode { node, domains: Vec::new() }).domains.push(domain);
        }
        former
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

/// What tells this boot of the host from others.
///
/// # Errors
/// If the host does not say. No guess is good: after another boot no guest is the agent's own (all would be stopped), and no disk is taken.
pub(crate) fn boot_id(proc_dir: &Path) -> Result<String, ProcError> {
    let path = proc_dir.join(BOOT_ID);
    let read = fs::read_to_string(&path).and_then(|text| match text.trim() {
        "" => Err(io::ErrorKind::UnexpectedEof.into()),
        text => Ok(text.to_owned()),
    });
    read.map_err(|source| ProcError::Read { path, source })
}

#[cfg(test)]
mod tests {
    use domain_xml::render_metadata;

    use super::*;
    use crate::libvirt::{DomainState, RunningReason, ShutOffReason};

    fn identity(node: &str) -> NodeIdentity {
        NodeIdentity { cluster_uid: Uuid::from_u128(1), node: node.to_owned() }
    }

    fn domain(name: &str, owner: &NodeIdentity, state: DomainState) -> DomainSummary {
        let metadata = Metadata {
            installation: owner.installation(),
            node: owner.node.clone(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            uid: Uuid::nil().to_string(),
            grace_period_seconds: 30,
            deletion_deadline: None,
        };
        DomainSummary {
            uuid: Uuid::nil(),
            name: format!("default_{name}"),
            id: None,
            state,
            persistent: true,
            autostart: false,
            has_managed_save: false,
            metadata: Some(render_metadata(&metadata).unwrap()),
        }
    }

    #[test]
    fn a_renamed_node_is_known_by_the_guests_that_run() {
        let (running, off) =
            (DomainState::Running(RunningReason::Booted), DomainState::ShutOff(ShutOffReason::Shutdown));
        let other = NodeIdentity { cluster_uid: Uuid::from_u128(2), ..identity("h1") };
        let domains = [
            domain("own", &identity("h2"), running),
            domain("ended", &identity("h1"), off),
            domain("of-another-cluster", &other, running),
        ];
        assert_eq!(identity("h2").former_node(&domains), None);
        let left = domain("left", &identity("h1"), running);
        let former = FormerNode { node: "h1".to_owned(), domains: vec!["default_left".to_owned()] };
        assert_eq!(identity("h2").former_node(&[domains.as_slice(), &[left]].concat()), Some(former));
    }

    #[test]
    fn i5_a_host_that_does_not_tell_its_boot_is_not_taken_for_one_that_has_booted() {
        assert_eq!(boot_id(Path::new("/proc")).unwrap(), boot_id(Path::new("/proc")).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let error = boot_id(directory.path()).unwrap_err().to_string();
        assert!(error.ends_with(BOOT_ID), "{error}");
    }

    #[test]
    fn a_node_keeps_its_name_when_the_host_gets_another() {
        let directory = tempfile::tempdir().unwrap();
        let host = default_node_name(directory.path()).unwrap();
        assert_eq!(host, host.to_lowercase());
        identity("h1").keep_name(directory.path()).unwrap();
        assert_eq!(default_node_name(directory.path()).unwrap(), "h1");
    }
}
