//! What the embedding program decides.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

use crate::admission::{Admission, AdmitAll};

/// Settings of a server.
#[derive(Clone)]
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
}

impl Options {
    /// Settings without custom resources, that admit everything that the schemas do.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        Self { data_dir: data_dir.into(), listen, custom_resources: Vec::new(), admission: Arc::new(AdmitAll) }
    }
}
