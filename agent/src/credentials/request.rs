//! Asks the cluster for a certificate: a CertificateSigningRequest, and a watch that was open before it was made. The token that the request is made
//! with is gone when the request is approved; the watch goes on.

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use api::join::node_user;
use api::names::{CLIENT_SIGNER, NODES_GROUP};
use futures::TryStreamExt as _;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::{Api, Client};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use super::{CertificateError, ClientCertificate};

/// Kubernetes signs for no less.
const LEAST_LIFETIME: Duration = Duration::from_mins(10);
/// Seconds after which the watch is made anew.
const WATCH_SECONDS: u32 = 240;
/// Pause before a watch that ended is made anew.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of the key's hash in the request's name.
const NAME_BYTES: usize = 8;

/// A request for a node's certificate.
pub struct SigningRequest {
    /// Name of the object: of the node and the key, so that asking again with the same key finds the same request.
    pub name: String,
    node: String,
    pem: String,
    key: String,
    lifetime: Duration,
}

/// Why no certificate came.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No request can be made of the key.
    #[error("make a certificate request")]
    Make(#[source] rcgen::Error),
    /// The API server does not know who asks.
    #[error("the API server does not take these credentials: {0}")]
    Unauthorized(String),
    /// The API server refuses, or does not answer.
    #[error("{operation}")]
    Api {
        /// What was asked.
        operation: &'static str,
        /// Its words.
        #[source]
        source: kube::Error,
    },
    /// The controller refused.
    #[error("the cluster denied it ({reason}): {message}")]
    Denied {
        /// CamelCase.
        reason: String,
        /// What is wrong, and the fix.
        message: String,
    },
    /// Nobody approved, or nobody signed.
    #[error(
        "signing request {name} was not {missing} within {} s: {fix} (`kubectl describe csr {name}`)",
        waited.as_secs()
    )]
    TimedOut {
        /// Name of the request.
        name: String,
        /// What has not happened.
        missing: &'static str,
        /// What to look at.
        fix: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// What was signed is not what was asked for.
    #[error("the cluster signed something else than was asked for")]
    Signed(#[source] CertificateError),
}

impl SigningRequest {
    /// A request for the certificate of a node, with a key (PEM).
    ///
    /// # Errors
    /// If the key is none.
    pub fn new(node: &str, key: &str, lifetime: Duration) -> Result<Self, RequestError> {
        let pair = KeyPair::from_pem(key).map_err(RequestError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, NODES_GROUP);
        params.distinguished_name.push(DnType::CommonName, node_user(node));
        let pem = params.serialize_request(&pair).and_then(|request| request.pem()).map_err(RequestError::Make)?;
        let mut name = format!("ovm-{node}-");
        for byte in Sha256::digest(pair.public_key_raw()).iter().take(NAME_BYTES) {
            let _ = write!(name, "{byte:02x}"); // writing to a String cannot fail
        }
        let (node, key) = (node.to_owned(), key.to_owned());
        Ok(Self { name, node, pem, key, lifetime: lifetime.max(LEAST_LIFETIME) })
    }

    /// A new key (PEM).
    ///
    /// # Errors
    /// If none can be made.
    pub fn new_key() -> Result<String, RequestError> {
        KeyPair::generate().map(|key| key.serialize_pem()).map_err(RequestError::Make)
    }

    /// Asks, and waits for the certificate.
    ///
    /// # Errors
    /// If none comes in time.
    pub async fn obtain(&self, client: &Client, patience: Duration) -> Result<ClientCertificate, RequestError> {
        let api = Api::<CertificateSigningRequest>::all(client.clone());
        let deadline = Instant::now() + patience;
        let mut last = None;
        let waited = timeout_at(deadline, self.create_and_follow(&api, &mut last)).await;
        match waited {
            Ok(certificate) => self.check(&certificate?),
            Err(_) => Err(self.timed_out(last.as_ref(), patience)),
        }
    }

    async fn create_and_follow(
        &self,
        api: &Api<CertificateSigningRequest>,
        last: &mut Option<CertificateSigningRequest>,
    ) -> Result<String, RequestError> {
        let mut is_created = false;
        loop {
            let params = WatchParams::default().fields(&format!("metadata.name={}", self.name)).timeout(WATCH_SECONDS);
            let watch = api.watch(&params, "0").await.map_err(|error| failed("watch signing requests", error))?;
            if !std::mem::replace(&mut is_created, true) {
                self.create(api).await?;
            }
            let mut watch = pin!(watch);
            while let Some(event) =
                watch.try_next().await.map_err(|error| failed("watch the signing request", error))?
            {
                if let WatchEvent::Added(request) | WatchEvent::Modified(request) = event {
                    if let Some(certificate) = outcome(&request)? {
                        return Ok(certificate);
                    }
                    *last = Some(request);
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Makes the object, unless an earlier attempt with this key has.
    async fn create(&self, api: &Api<CertificateSigningRequest>) -> Result<(), RequestError> {
        let failed_create = |error| failed("create a signing request", error);
        let object = json!({
            "metadata": {"name": self.name},
            "spec": {
                "request": k8s_openapi::ByteString(self.pem.clone().into_bytes()),
                "signerName": CLIENT_SIGNER,
                "usages": ["digital signature", "client auth"],
                "expirationSeconds": self.lifetime.as_secs(),
            },
        });
        let object = serde_json::from_value(object).map_err(|error| failed_create(kube::Error::SerdeError(error)))?;
        match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop).map_err(failed_create),
        }
    }

    fn check(&self, certificates: &str) -> Result<ClientCertificate, RequestError> {
        let both = ClientCertificate::parse(&format!("{certificates}\n{}", self.key)).map_err(RequestError::Signed)?;
        if both.node == self.node {
            Ok(both)
        } else {
            Err(RequestError::Signed(CertificateError::OtherUser(node_user(&both.node))))
        }
    }

    fn timed_out(&self, last: Option<&CertificateSigningRequest>, waited: Duration) -> RequestError {
        let (missing, fix) = if last.is_some_and(|request| condition(request, "Approved").is_some()) {
            ("signed", "does kube-controller-manager run, with a signing key?")
        } else {
            ("approved", "does ovm-controller run, with the manifests of this version?")
        };
        RequestError::TimedOut { name: self.name.clone(), missing, fix, waited }
    }
}

/// The certificate, once it is there.
fn outcome(request: &CertificateSigningRequest) -> Result<Option<String>, RequestError> {
    if let Some((reason, message)) = condition(request, "Denied").or_else(|| condition(request, "Failed")) {
        return Err(RequestError::Denied { reason, message });
    }
    let certificate = request.status.as_ref().and_then(|status| status.certificate.as_ref());
    Ok(certificate.filter(|bytes| !bytes.0.is_empty()).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()))
}

/// Reason and message of a condition that the request has.
fn condition(request: &CertificateSigningRequest, kind: &str) -> Option<(String, String)> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == kind)?;
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

fn failed(operation: &'static str, source: kube::Error) -> RequestError {
    match source {
        kube::Error::Api(status) if status.code == 401 => RequestError::Unauthorized(status.message.clone()),
        source => RequestError::Api { operation, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(status: &serde_json::Value) -> CertificateSigningRequest {
        serde_json::from_value(json!({
            "metadata": {"name": "r"}, "spec": {"request": "", "signerName": "s"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn one_key_makes_one_request() {
        let key = SigningRequest::new_key().unwrap();
        let name = |node: &str, key: &str| SigningRequest::new(node, key, Duration::ZERO).unwrap().name;
        assert_eq!(name("n1", &key), name("n1", &key));
        assert!(name("n1", &key).starts_with("ovm-n1-"));
        assert_ne!(name("n1", &key), name("n1", &SigningRequest::new_key().unwrap()));
    }

    #[test]
    fn a_request_ends_with_a_certificate_or_a_reason() {
        assert!(matches!(outcome(&request(&json!({}))), Ok(None)));
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
        assert!(matches!(outcome(&request(&approved)), Ok(None)));
        let denied =
            json!({"conditions": [{"type": "Denied", "status": "True", "reason": "NameTaken", "message": "m"}]});
        let error = outcome(&request(&denied)).unwrap_err().to_string();
        assert_eq!(error, "the cluster denied it (NameTaken): m");
        assert_eq!(outcome(&request(&json!({"certificate": "cGVt"}))).unwrap().as_deref(), Some("pem"));
    }

    #[test]
    fn what_is_signed_must_be_what_was_asked_for() {
        let pem = super::super::certificate::tests::pem("kubevirt.io:node:n2", NODES_GROUP);
        let both = ClientCertificate::parse(&pem).unwrap();
        let asked = |node: &str| SigningRequest::new(node, &both.key, Duration::ZERO).unwrap();
        assert_eq!(asked("n2").check(&both.certificates).unwrap(), both);
        assert!(matches!(asked("n1").check(&both.certificates), Err(RequestError::Signed(_))));
    }
}
