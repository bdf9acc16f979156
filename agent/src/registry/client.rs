//! One image at its registry: what its name means there, its manifest, its configuration.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::http::{HeaderValue, Method, Response, StatusCode};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::auth::{Challenge, MAX_TOKEN_BYTES, bearer, challenge};
use super::credentials::{Credentials, PullSecrets};
use super::error::RegistryError;
use super::hosts::{Endpoint, authority, endpoints_of, is_loopback};
use super::http::{Ask, Http};
use super::manifest::{
    ACCEPTED, Descriptor, ImageManifest, MAX_MANIFEST_BYTES, Manifest, ManifestError, architecture, diff_ids,
};
use crate::images::{Digest, ImageName};

/// A call is made so often before its failure is told.
const ATTEMPTS: u32 = 3;
/// The pause before the second call; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// What registries say of the digest of what they serve.
const CONTENT_DIGEST: &str = "docker-content-digest";
const ANYTHING: &str = "*/*";
const JSON: &str = "application/json";

/// One image at the servers that may have it.
pub struct Registry {
    name: ImageName,
    pub(super) sessions: Vec<Session>,
}

/// What a name means at its registry right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Digest of the manifest, or of the index.
    pub digest: Digest,
    /// The registry was shown credentials: others may not have the image.
    pub with_credentials: bool,
}

/// One server, and what it was shown.
pub(super) struct Session {
    pub(super) endpoint: Endpoint,
    pub(super) http: Http,
    repository: String,
    /// The registry that a mirror stands for.
    stands_for: Option<String>,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<HeaderValue>>,
    has_shown_credentials: AtomicBool,
}

impl Registry {
    /// The image of this name, asked for with the credentials that the secrets hold for each server.
    ///
    /// # Errors
    /// If the configuration of its registry cannot be used.
    pub fn open(registries_dir: &Path, name: &ImageName, secrets: &PullSecrets) -> Result<Self, RegistryError> {
        let session = |endpoint: Endpoint| {
            let host = if endpoint.is_mirror { endpoint.name.as_str() } else { name.host() };
            Ok::<_, RegistryError>(Session {
                http: Http::new(&endpoint)?,
                repository: name.repository().to_owned(),
                stands_for: endpoint.is_mirror.then(|| name.host().to_owned()),
                credentials: secrets.find(host, name).cloned(),
                authorization: Mutex::default(),
                has_shown_credentials: AtomicBool::new(false),
                endpoint,
            })
        };
        let sessions = endpoints_of(registries_dir, name.host())?.into_iter().map(session).collect::<Result<_, _>>()?;
        Ok(Self { name: name.clone(), sessions })
    }

    /// Which digest the name means now.
    ///
    /// # Errors
    /// If no server says.
    pub async fn resolve(&self) -> Result<Resolved, RegistryError> {
        let reference = self.name.reference();
        let asked = self.ask(|endpoint| endpoint.resolves, |session| Box::pin(session.resolve(reference))).await?;
        Ok(asked)
    }

    /// The manifest of this digest; of an index, the one for this node's architecture.
    ///
    /// # Errors
    /// If no server has it, or it is refused.
    pub async fn manifest(&self, digest: &Digest) -> Result<ImageManifest, RegistryError> {
        match self.read_manifest(digest).await? {
            Manifest::Image(manifest) => Ok(manifest),
            Manifest::Index(chosen) => match self.read_manifest(&chosen.digest).await? {
                Manifest::Image(manifest) => Ok(manifest),
                Manifest::Index(_) => Err(RegistryError::Manifest {
                    registry: self.name.host().to_owned(),
                    what: format!("manifest {digest}"),
                    source: ManifestError::NestedIndex,
                }),
            },
        }
    }

    /// The digests of the image's layers as they are unpacked, the lowest first; none if it has no configuration, or that does not say.
    ///
    /// # Errors
    /// If no server has its configuration, or it is refused.
    pub async fn diff_ids(&self, manifest: &ImageManifest) -> Result<Vec<Digest>, RegistryError> {
        let Some(config) = &manifest.config else { return Ok(Vec::new()) };
        self.ask(|endpoint| endpoint.pulls, |session| Box::pin(session.diff_ids(config))).await
    }

    async fn read_manifest(&self, digest: &Digest) -> Result<Manifest, RegistryError> {
        self.ask(|endpoint| endpoint.pulls, |session| Box::pin(session.manifest(digest))).await
    }

    /// Asks one server after the other, and all of them again if what failed may pass. The error is the last server's: the registry's own.
    async fn ask<'s, T>(
        &'s self,
        can: impl Fn(&Endpoint) -> bool,
        call: impl Fn(&'s Session) -> BoxFuture<'s, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let mut last = None;
            for session in self.sessions.iter().filter(|session| can(&session.endpoint)) {
                match call(session).await {
                    Ok(value) => return Ok(value),
                    Err(error) => {
                        tracing::debug!(registry = session.endpoint.name, error = api::chain(&error), "not from here");
                        last = Some(error);
                    }
                }
            }
            let error = last.unwrap_or_else(|| RegistryError::Protocol {
                registry: self.name.host().to_owned(),
                rule: "its hosts.toml names no server that may be asked; check capabilities".to_owned(),
            });
            if !error.is_transient() || attempt == ATTEMPTS {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }
}

impl Session {
    async fn resolve(&self, reference: &str) -> Result<Resolved, RegistryError> {
        let path = format!("manifests/{reference}");
        let what = format!("image {}:{reference}", self.repository);
        let head = self.get(Method::HEAD, &path, ACCEPTED, 0, &what).await?;
        let digest = if let Some(digest) = content_digest(&head) {
            digest
        } else {
            let response = self.get(Method::GET, &path, ACCEPTED, 0, &what).await?;
            sha256(&self.http.read(response, MAX_MANIFEST_BYTES, &what).await?)
        };
        if reference.contains(':') && digest.to_string() != reference {
            return Err(self.http.protocol(format!("it answers with {digest} to {what}")));
        }
        Ok(Resolved { digest, with_credentials: self.has_shown_credentials.load(Ordering::Relaxed) })
    }

    async fn manifest(&self, digest: &Digest) -> Result<Manifest, RegistryError> {
        let what = format!("manifest {digest}");
        let response = self.get(Method::GET, &format!("manifests/{digest}"), ACCEPTED, 0, &what).await?;
        let bytes = self.read_checked(response, digest, &what).await?;
        Manifest::parse(&bytes, architecture()).map_err(|source| self.bad_manifest(what, source))
    }

    async fn diff_ids(&self, config: &Descriptor) -> Result<Vec<Digest>, RegistryError> {
        let what = format!("configuration {}", config.digest);
        let response = self.get(Method::GET, &format!("blobs/{}", config.digest), ANYTHING, 0, &what).await?;
        let bytes = self.read_checked(response, &config.digest, &what).await?;
        diff_ids(&bytes).map_err(|source| self.bad_manifest(what, source))
    }

    fn bad_manifest(&self, what: String, source: ManifestError) -> RegistryError {
        RegistryError::Manifest { registry: self.endpoint.name.clone(), what, source }
    }

    async fn read_checked(
        &self,
        response: Response<Incoming>,
        digest: &Digest,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let bytes = self.http.read(response, MAX_MANIFEST_BYTES, what).await?;
        let found = sha256(&bytes);
        if found != *digest {
            let registry = self.endpoint.name.clone();
            return Err(RegistryError::DigestMismatch { registry, expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    /// Asks for something of the repository; shows who asks, if the registry wants to know. The answer is one that says yes.
    pub(super) async fn get(
        &self,
        method: Method,
        path: &str,
        accept: &'static str,
        from: u64,
        what: &str,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut url = self.endpoint.base.clone();
        url.set_path(&format!("{}/{}/{path}", self.endpoint.base.path().trim_end_matches('/'), self.repository));
        if let Some(registry) = &self.stands_for {
            // A mirror of several registries must know which is meant.
            url.query_pairs_mut().append_pair("ns", registry);
        }
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut ask = Ask { method, url, accept, from, authorization: known.as_ref(), what };
        let response = self.http.send(&ask).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.judge(response, what);
        }
        let Some(shown) = self.authenticate(&response, what).await? else { return Err(self.denied(what)) };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown.clone());
        ask.authorization = Some(&shown);
        self.judge(self.http.send(&ask).await?, what)
    }

    fn judge(&self, response: Response<Incoming>, what: &str) -> Result<Response<Incoming>, RegistryError> {
        let (registry, what) = (self.endpoint.name.clone(), what.to_owned());
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(&what)),
            StatusCode::NOT_FOUND => Err(RegistryError::Missing { registry, what }),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Err(RegistryError::Trouble { registry, status: response.status().as_u16(), what })
            }
            status if status.is_server_error() => Err(RegistryError::Trouble { registry, status: status.as_u16(), what }),
            status => Err(self.http.protocol(format!("it answers {} to {what}; is it a registry, and is it reached by the right of http and https (hosts.toml)?", status.as_u16()))),
        }
    }

    fn denied(&self, what: &str) -> RegistryError {
        RegistryError::Denied {
            registry: self.endpoint.name.clone(),
            what: what.to_owned(),
            with_credentials: self.credentials.is_some(),
        }
    }

    /// What shows the registry who asks; none if it wants credentials, and there are none.
    async fn authenticate(
        &self,
        refused: &Response<Incoming>,
        what: &str,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let credentials = self.credentials.as_ref().and_then(Credentials::to_basic);
        match challenge(refused.headers(), &self.repository) {
            None => Err(self.http.protocol(format!("it wants an authentication for {what} that is not supported"))),
            Some(Challenge::Basic) => {
                self.has_shown_credentials.fetch_or(credentials.is_some(), Ordering::Relaxed);
                Ok(credentials)
            }
            Some(Challenge::Bearer { realm }) => self.fetch_token(realm, credentials.as_ref()).await,
        }
    }

    async fn fetch_token(
        &self,
        realm: Url,
        credentials: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        // As with redirects: what is asked over TLS is not shown to those in between.
        let is_plain_in_order =
            self.endpoint.base.scheme() == "http" && (is_loopback(&realm) || authority(&realm) == self.endpoint.name);
        if realm.scheme() == "http" && !is_plain_in_order {
            return Err(self.http.protocol(format!("it wants a token from {} by plain http", authority(&realm))));
        }
        let what = format!("a token from {}", authority(&realm));
        self.has_shown_credentials.fetch_or(credentials.is_some(), Ordering::Relaxed);
        let ask =
            Ask { method: Method::GET, url: realm, accept: JSON, from: 0, authorization: credentials, what: &what };
        let response = self.http.send(&ask).await?;
        let response = self.judge(response, &what)?;
        let answer = self.http.read(response, MAX_TOKEN_BYTES, &what).await?;
        let token = bearer(&answer).ok_or_else(|| self.http.protocol(format!("{what} is none")))?;
        Ok(Some(token))
    }
}

fn content_digest(response: &Response<Incoming>) -> Option<Digest> {
    response.headers().get(CONTENT_DIGEST)?.to_str().ok()?.to_owned().try_into().ok()
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(&Sha256::digest(bytes).into())
}
