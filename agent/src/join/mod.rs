//! `ovm-agent join`: makes this host a hypervisor of a cluster.
//!
//! ```text
//! cluster-info (trusted by the hash of its authority's key) ─► bootstrap token ─► signing request ─► certificate ─► kubeconfig ─► unit
//! ```

mod cluster_info;
mod error;
mod kubeconfig;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use api::join::{BootstrapToken, CaHash, check_node_name};
use clap::Args;
use jiff::SignedDuration;
use kube::{Client, Config};
use nix::unistd::gethostname;

use crate::credentials::{ClientCertificate, CredentialStore, RequestError, SigningRequest};
use crate::images::DEFAULT_DATA_DIR;
pub use error::JoinError;

/// The kubeconfig of a joined agent, which the agent uses where it is given no other.
pub const DEFAULT_KUBECONFIG: &str = "/etc/ovm/agent.kubeconfig";
/// Our unit.
pub(crate) const UNIT: &str = "ovm-agent.service";
/// There where systemd runs: <https://www.freedesktop.org/software/systemd/man/latest/sd_booted.html>.
const SYSTEMD: &str = "/run/systemd/system";
/// How long the API server may take to take a connection, and to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Join a cluster: get a certificate for this host's agent with a bootstrap token, and start the agent.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// Address of the API server.
    #[arg(long, value_name = "URL")]
    pub server: String,
    /// Bootstrap token, as `virtctl token create` prints it. It is used up.
    #[arg(long, env = "OVM_JOIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub token: BootstrapToken,
    /// Hash of the public key of the cluster's certificate authority; given more than once, one of them must be right.
    #[arg(long, required = true, value_name = "sha256:HEX")]
    pub ca_hash: Vec<CaHash>,
    /// Name of this host's Node; the host's name if not given.
    #[arg(long, env = "OVM_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Kubeconfig to write.
    #[arg(long, env = "OVM_KUBECONFIG", default_value = DEFAULT_KUBECONFIG, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// Directory of the agent's state. The certificate is kept in `pki/` in it.
    #[arg(long, env = "OVM_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// How long the certificate is to be good, such as 2160h. It is renewed before it ends. No less than 10m.
    #[arg(long, default_value = "2160h", value_name = "TIME", value_parser = time)]
    pub certificate_lifetime: Duration,
    /// How long to wait for the certificate.
    #[arg(long, default_value = "2m", value_name = "TIME", value_parser = time)]
    pub timeout: Duration,
    /// Do not enable and start the agent's unit.
    #[arg(long)]
    pub no_start: bool,
}

impl JoinArgs {
    /// Joins, and says on `out` what was done.
    ///
    /// # Errors
    /// Names what is wrong, and the fix. Nothing is left but the key of a request that is still open, for the next attempt.
    pub async fn run(self, out: &mut impl Write) -> Result<(), JoinError> {
        let server = cluster_info::parse_server(&self.server)?;
        let node = self.node_name()?;
        let store = CredentialStore::open(&self.data_dir)?;
        self.refuse_if_joined(&store)?;
        let place = kubeconfig::Place::open(&self.kubeconfig)?;
        let authority = cluster_info::fetch_authority(&server, &self.ca_hash).await?;
        let client = self.bootstrap_client(&server, &authority)?;
        let certificate = self.obtain(&client, &server, &node, &store).await?;
        store.put_current(&certificate.to_pem())?;
        let credentials = CredentialStore::current_path(&absolute(&self.data_dir)?);
        place.write(&kubeconfig::render(&server, &authority, &credentials), &store)?;
        let started = self.start_unit()?;
        let node_line =
            format!("node {node} has joined {server}; its certificate is good until {}", certificate.not_after);
        let next_line = if started {
            format!("{UNIT} is enabled and started; look at it with: kubectl get node {node}")
        } else {
            format!("start the agent with: ovm-agent --kubeconfig {}", self.kubeconfig.display())
        };
        writeln!(out, "{node_line}\n{next_line}").map_err(JoinError::Print)
    }

    fn node_name(&self) -> Result<String, JoinError> {
        let host = || gethostname().ok().and_then(|name| name.into_string().ok()).map(|name| name.to_lowercase());
        let name = self.node_name.clone().or_else(host).ok_or(JoinError::NoName)?;
        check_node_name(&name)?;
        Ok(name)
    }

    /// A host that has joined is to leave first: its guests know their cluster.
    fn refuse_if_joined(&self, store: &CredentialStore) -> Result<(), JoinError> {
        let present = store.current()?.and_then(|text| ClientCertificate::parse(&text).ok());
        match present.filter(|certificate| certificate.not_after > jiff::Timestamp::now()) {
            Some(certificate) if self.kubeconfig.exists() => Err(JoinError::AlreadyJoined {
                node: certificate.node,
                kubeconfig: self.kubeconfig.clone(),
                until: certificate.not_after,
            }),
            _ => Ok(()),
        }
    }

    /// A client of whoever shows the token.
    fn bootstrap_client(&self, server: &http::Uri, authority: &str) -> Result<Client, JoinError> {
        let mut config = cluster_info::config(server);
        config.root_cert =
            Some(cluster_info::certificates(authority).map_err(|source| JoinError::ClusterInfo { source })?);
        let auth = serde_json::from_value(serde_json::json!({"token": self.token.to_string()}));
        // The certificate may be a while in coming; the wait has a deadline of its own.
        config.read_timeout = None;
        // Its type for secrets is not public; reading it as a kubeconfig would be cannot fail for a text.
        config.auth_info = auth.unwrap_or_default();
        Client::try_from(config).map_err(|source| JoinError::Unreachable { server: server.to_string(), source })
    }

    /// The certificate, with a key of an attempt that was cut short, or a new one.
    async fn obtain(
        &self,
        client: &Client,
        server: &http::Uri,
        node: &str,
        store: &CredentialStore,
    ) -> Result<ClientCertificate, JoinError> {
        let key = match store.pending_key()? {
            Some(key) => key,
            None => SigningRequest::new_key()?,
        };
        let request = SigningRequest::new(node, &key, self.certificate_lifetime)?;
        store.put_pending_key(&key)?;
        let obtained = request.obtain(client, self.timeout).await;
        if matches!(obtained, Err(RequestError::Denied { .. })) {
            // The answer to this request will not change.
            store.forget_pending()?;
        }
        obtained.map_err(|error| match error {
            RequestError::Unauthorized(message) => JoinError::Token { id: self.token.id().to_owned(), message },
            RequestError::Api { source: source @ (kube::Error::Service(_) | kube::Error::HyperError(_)), .. } => {
                JoinError::Unreachable { server: server.to_string(), source }
            }
            error => error.into(),
        })
    }

    /// Whether there was a unit to start.
    fn start_unit(&self) -> Result<bool, JoinError> {
        if self.no_start || !has_systemd() {
            return Ok(false);
        }
        systemctl(&["enable", "--now", UNIT]).map(|()| true)
    }
}

/// Whether systemd runs this host.
pub(crate) fn has_systemd() -> bool {
    Path::new(SYSTEMD).is_dir()
}

/// Runs systemctl.
pub(crate) fn systemctl(arguments: &[&str]) -> Result<(), JoinError> {
    let failed = |message: String| JoinError::Systemctl { arguments: arguments.join(" "), message };
    let output = Command::new("systemctl").args(arguments).output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn absolute(path: &Path) -> Result<PathBuf, JoinError> {
    std::path::absolute(path).map_err(|source| JoinError::Path { path: path.to_owned(), source })
}

/// Reads a time such as `90m` or `2160h`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
    parsed.ok_or_else(|| format!("{text:?} is not a time; write 90m or 2160h"))
}

/// A client's configuration for a server, without credentials.
fn plain_config(server: &http::Uri) -> Config {
    let mut config = Config::new(server.clone());
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(ANSWER_TIMEOUT);
    config
}
