//! A client for the API server, made from kubectl's flags and kubeconfig rules.

use std::time::Duration;

use kube::client::ClientBuilder;
use kube::client::retry::RetryPolicy;
use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use serde_json::json;
use tower::buffer::BufferLayer;
use tower::retry::RetryLayer;

use crate::cli::ConnectionFlags;
use crate::error::Error;

/// Time to reach the server at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// More wait until one of these was taken.
const REQUESTS_AT_A_TIME: usize = 64;

/// An open client and what it was told.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) server: http::Uri,
    /// Certificates (DER) of the authorities that the API server's certificate is checked against; none: those of this host.
    pub(crate) authorities: Option<Vec<Vec<u8>>>,
}

impl Connection {
    /// Reads the kubeconfig and makes a client. Asks no server yet.
    ///
    /// # Errors
    /// No kubeconfig, one that cannot be read, or a flag that cannot be used.
    pub(crate) async fn open(flags: &ConnectionFlags) -> Result<Self, Error> {
        let mut config = config(flags).await?;
        let namespace = config.default_namespace.clone();
        let server = config.cluster_url.clone();
        // A flag's file is not what the kubeconfig says.
        let authorities = config.root_cert.clone().filter(|_| flags.certificate_authority.is_none());
        // kube's own policy goes on for minutes, which is for programs that nobody waits for.
        config.default_retry = false;
        let client = ClientBuilder::try_from(config).map_err(Error::Client)?;
        // To be sent anew a request needs a service that can be shared: the buffer.
        let shared = client.with_layer(&BufferLayer::new(REQUESTS_AT_A_TIME));
        let client = shared.with_layer(&RetryLayer::new(RetryPolicy::default())).build();
        Ok(Self { client, namespace, server, authorities })
    }

    /// An API error in one line.
    pub(crate) fn explain(&self, error: &kube::Error) -> String {
        crate::error::api_message(error, &self.server)
    }
}

async fn config(flags: &ConnectionFlags) -> Result<Config, Error> {
    let options =
        KubeConfigOptions { context: flags.context.clone(), cluster: flags.cluster.clone(), user: flags.user.clone() };
    let wrong = |source| Error::Kubeconfig { path: flags.kubeconfig.clone(), source };
    let kubeconfig = match &flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).map_err(wrong)?,
        None => match Kubeconfig::read() {
            Ok(kubeconfig) => kubeconfig,
            Err(KubeconfigError::ReadConfig(error, path)) if error.kind() == std::io::ErrorKind::NotFound => {
                if flags.server.is_none() {
                    return Err(Error::NoKubeconfig(path.display().to_string()));
                }
                Kubeconfig::default()
            }
            Err(error) => return Err(wrong(error)),
        },
    };
    let mut config = if flags.server.is_some() && kubeconfig.contexts.is_empty() {
        Config::new(http::Uri::from_static("https://localhost"))
    } else {
        Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?
    };
    apply(flags, &mut config)?;
    Ok(config)
}

/// Lays the flags over what the kubeconfig said.
fn apply(flags: &ConnectionFlags, config: &mut Config) -> Result<(), Error> {
    if let Some(server) = &flags.server {
        let unusable = |reason: &str| Error::Flag { flag: "server", value: server.clone(), reason: reason.to_owned() };
        let uri: http::Uri = server.parse().map_err(|_| unusable("not a URL"))?;
        if uri.host().is_none() || uri.scheme().is_none() {
            return Err(unusable("give a scheme too, such as https://127.0.0.1:6443"));
        }
        config.cluster_url = uri;
    }
    if let Some(namespace) = &flags.namespace {
        config.default_namespace.clone_from(namespace);
    }
    if let Some(path) = &flags.certificate_authority {
        config.root_cert_file = Some(path.clone());
    }
    if let Some(name) = &flags.tls_server_name {
        config.tls_server_name = Some(name.clone());
    }
    if flags.insecure_skip_tls_verify {
        config.accept_invalid_certs = true;
    }
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    if !flags.request_timeout.is_zero() {
        config.read_timeout = Some(flags.request_timeout);
    }
    apply_credentials(flags, &mut config.auth_info)
}

fn apply_credentials(flags: &ConnectionFlags, auth: &mut AuthInfo) -> Result<(), Error> {
    if let Some(token) = &flags.token {
        // Its type for secrets is not public: read it as a kubeconfig would be.
        let with_token: AuthInfo = serde_json::from_value(json!({"token": token})).map_err(|error| Error::Flag {
            flag: "token",
            value: "(hidden)".to_owned(),
            reason: error.to_string(),
        })?;
        auth.token = with_token.token;
        auth.token_file = None;
    }
    let text = |path: &std::path::PathBuf| path.to_string_lossy().into_owned();
    if let Some(path) = &flags.client_certificate {
        auth.client_certificate = Some(text(path));
        auth.client_certificate_data = None;
    }
    if let Some(path) = &flags.client_key {
        auth.client_key = Some(text(path));
        auth.client_key_data = None;
    }
    if flags.impersonate.is_some() {
        auth.impersonate.clone_from(&flags.impersonate);
    }
    if !flags.impersonate_groups.is_empty() {
        auth.impersonate_groups = Some(flags.impersonate_groups.clone());
    }
    Ok(())
}
