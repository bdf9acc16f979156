//! Renews the certificate of a running agent. Guests do not notice: nothing of theirs hangs on it.

use std::path::PathBuf;
use std::time::Duration;

use api::chain;
use jiff::Timestamp;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use plan::node::{next_lifetime, renewal_pause, renewal_time};
use telemetry::ApiCalls;
use tracing::{info, warn};

use super::{ClientCertificate, ClientSwitch, CredentialStore, JoinedIdentity, RequestError, SigningRequest};
use crate::hostfs::FileError;

/// Time for one attempt.
const PATIENCE: Duration = Duration::from_mins(2);
/// Pause after one that failed.
const RETRY: Duration = Duration::from_secs(30);

/// What a renewal needs.
pub(crate) struct Renewer {
    /// Where to renew, and what to renew it with.
    pub(crate) kubeconfig: Kubeconfig,
    /// The certificate in force.
    pub(crate) identity: JoinedIdentity,
    /// The agent's directory.
    pub(crate) data_dir: PathBuf,
    /// How long before its end it is renewed; without it, after most of its life.
    pub(crate) renew_before: Option<Duration>,
    /// The client to change.
    pub(crate) switch: ClientSwitch,
    /// Counts the calls of the clients made here.
    pub(crate) api_calls: ApiCalls,
    /// Who they say they are.
    pub(crate) user_agent: &'static str,
}

/// A certificate that was not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("use the new certificate")]
    Kubeconfig(#[from] KubeconfigError),
    #[error("use the new certificate")]
    Client(#[source] kube::Error),
}

impl Renewer {
    /// Renews whenever it is time, until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let certificate = &self.identity.certificate;
            let due = renewal_time(&certificate.node, certificate.not_before, certificate.not_after, self.renew_before);
            info!(node = certificate.node, until = %certificate.not_after, renewal = %due, "client certificate");
            while let Some(pause) = renewal_pause(due, Timestamp::now()) {
                tokio::time::sleep(pause).await;
            }
            while let Err(error) = self.renew().await {
                warn!(
                    error = chain(&error),
                    until = %self.identity.certificate.not_after,
                    "the client certificate is not renewed; trying again. Once it has ended, the host must join anew"
                );
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn renew(&mut self) -> Result<(), RenewError> {
        let old = &self.identity.certificate;
        let key = SigningRequest::new_key()?;
        let request = SigningRequest::new(&old.node, &key, next_lifetime(old.not_before, old.not_after))?;
        let new = request.obtain(&self.switch.client(), PATIENCE).await?;
        let client = connect(&self.kubeconfig, &new, &self.api_calls, self.user_agent).await?;
        // On disk before it is used: a restart finds it.
        CredentialStore::open(&self.data_dir)?.put_current(&new.to_pem())?;
        self.switch.switch(client);
        self.identity.certificate = new;
        Ok(())
    }
}

/// A client with a certificate.
async fn connect(
    kubeconfig: &Kubeconfig,
    certificate: &ClientCertificate,
    api_calls: &ApiCalls,
    user_agent: &'static str,
) -> Result<Client, RenewError> {
    let kubeconfig = JoinedIdentity::with(kubeconfig, certificate);
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    api_calls.client(config, user_agent).map_err(RenewError::Client)
}
