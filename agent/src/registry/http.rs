//! One HTTP request to a registry, and where its redirects may lead.

use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::http::header::{ACCEPT, AUTHORIZATION, LOCATION, RANGE, USER_AGENT};
use ::http::{HeaderValue, Method, Request, Response, StatusCode};
use api::chain;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::time::timeout;
use url::{Origin, Url};

use super::error::RegistryError;
use super::hosts::{Endpoint, HostsError, TlsOptions, authority, is_loopback};

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// For an answer to begin, and for its next bytes to come.
pub(super) const SILENCE_DEADLINE: Duration = Duration::from_secs(30);
/// For a manifest, a configuration or a token to be there as a whole.
const READ_DEADLINE: Duration = Duration::from_mins(1);
/// Read at a time: enough to be quick, and too little for the allocator to ask the kernel each time.
const READ_BYTES: usize = 64 << 10;
const MAX_REDIRECTS: usize = 5;
const AGENT: &str = concat!("ovm-agent/", env!("CARGO_PKG_VERSION"));

/// What is asked of a server.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) accept: &'static str,
    /// From this byte on.
    pub(super) from: u64,
    /// For the host of `url` alone.
    pub(super) authorization: Option<&'a HeaderValue>,
    /// In words, for errors.
    pub(super) what: &'a str,
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Connections to one endpoint, and to whom it redirects.
pub(super) struct Http {
    registry: String,
    /// The endpoint's: who has its TLS options.
    origin: Origin,
    own: HttpClient,
    /// Hosts that it redirects to: never without verification, whatever holds for the endpoint.
    elsewhere: OnceLock<HttpClient>,
    tls: TlsOptions,
    /// Where plain HTTP is in order: the endpoint's own host, if that is how it is reached.
    plain: Option<String>,
}

impl Http {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, HostsError> {
        let is_plain = endpoint.base.scheme() == "http";
        Ok(Self {
            registry: endpoint.name.clone(),
            origin: endpoint.base.origin(),
            own: client(&endpoint.tls, !is_plain)?,
            elsewhere: OnceLock::new(),
            tls: endpoint.tls.clone(),
            plain: is_plain.then(|| endpoint.name.clone()),
        })
    }

    /// Sends the request, and follows redirects. Credentials go to the host that was asked first, and to no other.
    ///
    /// # Errors
    /// If nobody answers, or a redirect breaks a rule.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response<Incoming>, RegistryError> {
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_own = url.origin() == ask.url.origin();
            let request = request(ask, &url, is_own).map_err(|error| self.protocol(error.to_string()))?;
            // Another host, such as one that gives tokens, has not the endpoint's TLS options.
            let client = if url.origin() == self.origin { &self.own } else { self.elsewhere()? };
            let response = timeout(SILENCE_DEADLINE, client.request(request)).await;
            let response = response
                .map_err(|_| self.unreachable(&url, format!("no answer within {} s", SILENCE_DEADLINE.as_secs())))?
                .map_err(|error| self.unreachable(&url, chain(&error)))?;
            if !is_own && response.status() == StatusCode::UNAUTHORIZED {
                // Whoever is redirected to has no say in where credentials are shown.
                return Err(self.protocol(format!(
                    "{} wants credentials for {}, to which it redirects",
                    authority(&url),
                    ask.what
                )));
            }
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let next = next.ok_or_else(|| self.protocol(format!("it redirects {} to nowhere", ask.what)))?;
            self.check_redirect(&url, &next, ask.what)?;
            url = next;
        }
        Err(self.protocol(format!("it redirects {} more than {MAX_REDIRECTS} times", ask.what)))
    }

    fn check_redirect(&self, from: &Url, to: &Url, what: &str) -> Result<(), RegistryError> {
        let is_plain_in_order = || is_loopback(to) || self.plain.as_deref() == Some(&authority(to));
        let rule = if !matches!(to.scheme(), "http" | "https") || to.host_str().is_none() {
            "only http and https are followed"
        } else if !to.username().is_empty() || to.password().is_some() {
            "a target with user and password is not followed"
        } else if to.scheme() == "http" && from.scheme() == "https" {
            "from https to plain http is not followed"
        } else if to.scheme() == "http" && !is_plain_in_order() {
            "plain http to another host is not followed"
        } else {
            return Ok(());
        };
        // The rest of a target may be a signature that gives access.
        let target = format!("{}://{}", to.scheme(), authority(to));
        Err(RegistryError::Redirect { registry: self.registry.clone(), what: what.to_owned(), target, rule })
    }

    fn elsewhere(&self) -> Result<&HttpClient, HostsError> {
        if let Some(client) = self.elsewhere.get() {
            return Ok(client);
        }
        let made = client(&TlsOptions { skip_verify: false, ..self.tls.clone() }, true)?;
        Ok(self.elsewhere.get_or_init(|| made))
    }

    /// The whole body, if it is not longer than `limit`.
    ///
    /// # Errors
    /// If it is longer, or breaks off.
    pub(super) async fn read(
        &self,
        response: Response<Incoming>,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let late = |_| self.broken(format!("{what} was not there within {} s", READ_DEADLINE.as_secs()));
        timeout(READ_DEADLINE, self.read_frames(response, limit, what)).await.map_err(late)?
    }

    async fn read_frames(
        &self,
        response: Response<Incoming>,
        limit: u64,
        what: &str,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        loop {
            let Some(frame) = body.frame().await else { return Ok(bytes) };
            let frame = frame.map_err(|error| self.broken(chain(&error)))?;
            let Ok(data) = frame.into_data() else { continue };
            if (bytes.len() + data.len()) as u64 > limit {
                return Err(self.protocol(format!("{what} is longer than {limit} bytes")));
            }
            bytes.extend_from_slice(&data);
        }
    }

    pub(super) fn broken(&self, why: String) -> RegistryError {
        RegistryError::Unreachable { registry: self.registry.clone(), why }
    }

    pub(super) fn protocol(&self, rule: String) -> RegistryError {
        RegistryError::Protocol { registry: self.registry.clone(), rule }
    }

    fn unreachable(&self, url: &Url, why: String) -> RegistryError {
        let host = authority(url);
        self.broken(if host == self.registry { why } else { format!("{host}: {why}") })
    }
}

fn request(ask: &Ask<'_>, url: &Url, is_own: bool) -> Result<Request<Empty<Bytes>>, ::http::Error> {
    let mut request = Request::builder()
        .method(ask.method.clone())
        .uri(url.as_str())
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, ask.accept);
    if ask.from > 0 {
        request = request.header(RANGE, format!("bytes={}-", ask.from));
    }
    if let Some(authorization) = ask.authorization.filter(|_| is_own) {
        request = request.header(AUTHORIZATION, authorization);
    }
    request.body(Empty::new())
}

fn client(tls: &TlsOptions, with_roots: bool) -> Result<HttpClient, HostsError> {
    let config = tls_config(tls, with_roots)?;
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_DEADLINE));
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().wrap_connector(connector);
    let mut builder = Client::builder(TokioExecutor::new());
    Ok(builder.pool_max_idle_per_host(1).http1_read_buf_exact_size(READ_BYTES).build(connector))
}

fn tls_config(tls: &TlsOptions, with_roots: bool) -> Result<ClientConfig, HostsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| invalid("TLS", &error.to_string()))?;
    if tls.skip_verify {
        let verifier = Arc::new(Anybody(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    if with_roots {
        // One that is damaged is left out, as everywhere; without any, nobody is believed, and the handshake says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for file in &tls.authorities {
            add_authority(&mut roots, file)?;
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn add_authority(roots: &mut RootCertStore, file: &std::path::Path) -> Result<(), HostsError> {
    let bytes = fs::read(file).map_err(|source| HostsError::Read { path: file.to_owned(), source })?;
    let mut found = false;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate =
            certificate.map_err(|error| HostsError::Invalid { path: file.to_owned(), message: error.to_string() })?;
        roots
            .add(certificate)
            .map_err(|error| HostsError::Invalid { path: file.to_owned(), message: error.to_string() })?;
        found = true;
    }
    if found { Ok(()) } else { Err(invalid(file, "it holds no certificate in PEM form")) }
}

fn invalid(path: impl Into<std::path::PathBuf>, message: &str) -> HostsError {
    HostsError::Invalid { path: path.into(), message: message.to_owned() }
}

/// For `skip_verify = true`: any certificate is good. Signatures are checked all the same.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
