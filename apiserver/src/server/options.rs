//! What the embedding program decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::access::AccessRules;
use crate::admission::{Admission, AdmitAll};

/// Settings of a server.
pub struct Options {
    /// Directory of store, certificates, lock file and kubeconfig; made (0711) where it is missing.
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Custom resources that are served from the start. Where the store has an older definition of the same name, it is
    /// replaced.
    pub custom_resources: Vec<CustomResourceDefinition>,
    /// Rules beyond the schemas.
    pub admission: Arc<dyn Admission>,
    /// What users may do who are not administrators.
    pub access: AccessRules,
    /// Names and addresses, beside the loopback and the listen address, by which clients know the server. The first is the
    /// one that clients on other hosts are told.
    pub names: Vec<String>,
    /// A group whose members get a kubeconfig of an administrator (mode 0640); none: nobody but the owner.
    pub kubeconfig_group: Option<u32>,
}

impl Options {
    /// Settings without custom resources, that admit everything that the schemas do, and know nobody but administrators.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self {
            data_dir: data_dir.into(),
            listen,
            custom_resources: Vec::new(),
            admission: Arc::new(AdmitAll),
            access: AccessRules::default(),
            names: Vec::new(),
            kubeconfig_group: None,
        }
    }
}
