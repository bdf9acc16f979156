//! The server as the embedding program sees it: open, mount, listen, shut down.
//!
//! `open` and `listen` are two steps, because mounted routers usually need a client of this very server.

mod bootstrap;
mod connection;
mod core;
mod data_dir;
mod dispatch;
mod error;
mod listener;
mod local_service;
mod mount;
mod options;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::core::Core;
pub use error::StartError;
pub use local_service::LocalService;
pub use mount::Mount;
pub use options::Options;

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::auth::User;
use crate::status::chain;
use crate::store::Store;
use crate::{gc, tls};
use data_dir::DataDir;

/// Name of the store in the data directory.
const STORE_FILE: &str = "store.db";

/// Name of the unix socket there.
const SOCKET: &str = "api.sock";

/// How often is looked whether certificates end soon.
const CERTIFICATE_INTERVAL: Duration = Duration::from_hours(24);

/// How long requests in flight may take at shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// An open API server; cheap to clone, all clones are one server.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
    data_dir: Arc<DataDir>,
    listen: SocketAddr,
    names: Arc<Vec<String>>,
    kubeconfig_group: Option<u32>,
}

/// Where a listening server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address that is bound; tells the port where the options asked for port 0.
    pub local_addr: SocketAddr,
    /// The administrator's kubeconfig, mode 0600.
    pub kubeconfig: PathBuf,
    /// The unix socket, by which its owner, root, and members of the kubeconfig's group need no credentials; none where it cannot be made.
    pub socket: Option<PathBuf>,
}

impl ApiServer {
    /// Opens the store (made at first start), registers the custom resources and starts garbage collection. Requests of
    /// [`LocalService`] are served from now on, nothing listens yet.
    ///
    /// # Errors
    /// The data directory cannot be used, is in use by another process, or holds a store of a newer version; a custom
    /// resource cannot be served.
    pub async fn open(options: Options) -> Result<Self, StartError> {
        let data_dir = DataDir::lock(&options.data_dir)?;
        let (changes, heard) = tokio::sync::mpsc::unbounded_channel();
        let store = Store::open(&data_dir.path().join(STORE_FILE), changes).map_err(StartError::store)?;
        let registry = bootstrap::bootstrap(&store, &options.custom_resources).await?;
        let given: HashSet<String> =
            options.custom_resources.iter().filter_map(|crd| crd.metadata.name.clone()).collect();
        let core = Arc::new(Core::new(store, (options.admission, options.access), registry, given));
        core.tasks.spawn(gc::run(Arc::clone(&core), heard));
        Ok(Self {
            core,
            data_dir: Arc::new(data_dir),
            listen: options.listen,
            names: Arc::new(options.names),
            kubeconfig_group: options.kubeconfig_group,
        })
    }

    /// A transport for `kube::Client::new` that reaches this server in process, authenticated as `user`.
    pub fn local_service(&self, user: User) -> LocalService {
        LocalService::new(Arc::clone(&self.core), user)
    }

    /// Serves a router under `/apis/<group>/<version>` and lists it in discovery.
    pub fn mount(&self, mount: Mount) {
        self.core.mount(mount);
    }

    /// Makes or renews certificates and kubeconfig, and serves the listen address over TLS, and a unix socket in the data directory.
    ///
    /// # Errors
    /// The address cannot be bound, or certificates cannot be made.
    pub async fn listen(&self) -> Result<Endpoint, StartError> {
        let bind = |source| StartError::Bind { address: self.listen, source };
        let listener = tokio::net::TcpListener::bind(self.listen).await.map_err(bind)?;
        let local_addr = listener.local_addr().map_err(bind)?;
        let identity = tls::Identity::load_or_make(self.data_dir.path(), self.listen.ip(), &self.names)?;
        let kubeconfig = self.write_kubeconfigs(&identity, local_addr)?;
        let url = tls::url(local_addr, self.names.first().map(String::as_str));
        bootstrap::put_cluster_info(&self.core.store, &url, identity.authority_pem()).await?;
        let (shown, acceptor) = watch::channel(identity.acceptor()?);
        // Set once: a second listen has the same authority.
        let _ = self.core.signer.set(identity.signer());
        self.core.tasks.spawn(listener::serve(Arc::clone(&self.core), listener, acceptor));
        let renewing = self.clone().keep_certificates(identity, local_addr, shown);
        self.core.tasks.spawn(self.core.shutdown.clone().run_until_cancelled_owned(renewing));
        Ok(Endpoint { local_addr, kubeconfig, socket: self.listen_locally() })
    }

    /// Serves the unix socket. A path that is too long for one is no reason not to serve at all.
    fn listen_locally(&self) -> Option<PathBuf> {
        let path = self.data_dir.path().join(SOCKET);
        match listener::bind_local(&path, self.kubeconfig_group) {
            Ok(listener) => {
                self.core.tasks.spawn(listener::serve_local(Arc::clone(&self.core), listener));
                Some(path)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot serve the unix socket; the address is served");
                None
            }
        }
    }

    fn write_kubeconfigs(&self, identity: &tls::Identity, address: SocketAddr) -> Result<PathBuf, StartError> {
        let directory = self.data_dir.path();
        match self.kubeconfig_group {
            Some(group) => identity.write_group_kubeconfig(directory, address, group)?,
            None => tls::Identity::remove_group_kubeconfig(directory)?,
        }
        identity.write_kubeconfig(directory, address)
    }

    /// Renews certificates and kubeconfigs before they end, and shows new connections the new one. The authority lives longer than any host.
    async fn keep_certificates(
        self,
        mut identity: tls::Identity,
        address: SocketAddr,
        shown: watch::Sender<TlsAcceptor>,
    ) {
        loop {
            tokio::time::sleep(CERTIFICATE_INTERVAL).await;
            let now = time::OffsetDateTime::now_utc();
            let renewed = identity.renewed(self.data_dir.path(), self.listen.ip(), &self.names, now);
            let result = renewed.and_then(|newest| {
                self.write_kubeconfigs(&newest, address)?;
                if !newest.shows_same(&identity) {
                    shown.send_replace(newest.acceptor()?);
                    tracing::info!("renewed the server's certificate");
                }
                identity = newest;
                Ok(())
            });
            if let Err(error) = result {
                tracing::warn!(error = chain(&error), "cannot renew certificates, will try again");
            }
        }
    }

    /// Stops accepting, ends watches, lets requests in flight finish (5 s at most), then closes the store. Without it,
    /// or cut short by SIGKILL, nothing that was acknowledged is lost.
    pub async fn shutdown(&self) {
        self.core.shutdown.cancel();
        self.core.tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, self.core.tasks.wait()).await.is_err() {
            tracing::warn!("requests did not finish in time, closing the store");
        }
        self.core.store.close().await;
    }
}
