//! Where a registry is reached, and how: containerd's `hosts.toml`, one directory a registry.
//!
//! Format: <https://github.com/containerd/containerd/blob/main/docs/hosts.md>. `DIR/HOST/hosts.toml`, or `DIR/HOST_PORT_/hosts.toml`; `DIR/_default/hosts.toml`
//! stands for every registry without a file. A field that is not known is an error: it may be one that keeps a connection safe.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use url::Url;

/// Where registries are configured unless the agent is told otherwise.
pub const DEFAULT_REGISTRIES_DIR: &str = "/etc/ovm/registries.d";

const HOSTS_FILE: &str = "hosts.toml";
const DEFAULT_DIRECTORY: &str = "_default";
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A server that stands for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// Scheme, host, port and path, such as `https://quay.io/v2`; repositories come after it.
    pub(super) base: Url,
    /// Host and port, as people name it.
    pub(super) name: String,
    /// It may say which digest a tag means.
    pub(super) resolves: bool,
    /// It may serve manifests and blobs by digest.
    pub(super) pulls: bool,
    /// It is not the registry itself: it is told which one it stands for.
    pub(super) is_mirror: bool,
    pub(super) tls: TlsOptions,
}

/// What a server's certificate must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TlsOptions {
    /// PEM files of authorities beyond the system's.
    pub(super) authorities: Vec<PathBuf>,
    /// Anybody is believed.
    pub(super) skip_verify: bool,
}

/// Why the configuration of a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostsError {
    /// The file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not TOML, or not with these fields.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
    /// The registry's own host makes no URL.
    #[error("registry {0:?} makes no URL")]
    Host(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostsFile {
    server: Option<String>,
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMore>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    /// In the order of the file.
    #[serde(default)]
    host: toml::Table,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostTable {
    capabilities: Option<Vec<Capability>>,
    ca: Option<OneOrMore>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Capability {
    Pull,
    Resolve,
    Push,
    Referrers,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(PathBuf),
    More(Vec<PathBuf>),
}

/// The servers to ask for images of `host`, in order.
///
/// # Errors
/// If there is a configuration for it that cannot be used.
pub(super) fn endpoints_of(registries_dir: &Path, host: &str) -> Result<Vec<Endpoint>, HostsError> {
    for directory in directories_of(host) {
        let directory = registries_dir.join(directory);
        let path = directory.join(HOSTS_FILE);
        match std::fs::metadata(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(source) => return Err(HostsError::Read { path, source }),
            Ok(metadata) if metadata.len() > MAX_FILE_BYTES => {
                let message = format!("longer than {MAX_FILE_BYTES} bytes");
                return Err(HostsError::Invalid { path, message });
            }
            Ok(_) => {
                let text =
                    std::fs::read_to_string(&path).map_err(|source| HostsError::Read { path: path.clone(), source })?;
                return parse(&text, &directory, host).map_err(|message| HostsError::Invalid { path, message });
            }
        }
    }
    Ok(vec![own_endpoint(host)?])
}

/// Directories that may hold the file, in containerd's order.
fn directories_of(host: &str) -> Vec<String> {
    let mut directories = vec![host.to_owned()];
    if let Some((name, port)) = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        directories.insert(0, format!("{name}_{port}_"));
    }
    directories.push(DEFAULT_DIRECTORY.to_owned());
    directories
}

fn parse(text: &str, directory: &Path, host: &str) -> Result<Vec<Endpoint>, String> {
    let file: HostsFile = toml::from_str(text).map_err(|error| error.to_string().trim().replace('\n', " "))?;
    let mut endpoints = Vec::new();
    for (server, table) in file.host {
        let HostTable { capabilities, ca, skip_verify, override_path } = table
            .try_into()
            .map_err(|error| format!("host {server:?}: {}", error.to_string().trim().replace('\n', " ")))?;
        let tls = TlsOptions { authorities: authorities(ca, directory), skip_verify };
        endpoints.push(endpoint(&server, host, capabilities.as_deref(), override_path, tls)?);
    }
    let server = match &file.server {
        Some(server) => server.clone(),
        None => own_endpoint(host).map_err(|error| error.to_string())?.base.to_string(),
    };
    let overridden = file.override_path || file.server.is_none();
    let tls = TlsOptions { authorities: authorities(file.ca, directory), skip_verify: file.skip_verify };
    let last = endpoint(&server, host, file.capabilities.as_deref(), overridden, tls)?;
    if !endpoints.iter().any(|endpoint| endpoint.base == last.base) {
        endpoints.push(last);
    }
    Ok(endpoints)
}

fn authorities(ca: Option<OneOrMore>, directory: &Path) -> Vec<PathBuf> {
    let files = match ca {
        None => Vec::new(),
        Some(OneOrMore::One(file)) => vec![file],
        Some(OneOrMore::More(files)) => files,
    };
    // An absolute path stays what it is.
    files.into_iter().map(|file| directory.join(file)).collect()
}

fn endpoint(
    server: &str,
    registry: &str,
    capabilities: Option<&[Capability]>,
    override_path: bool,
    tls: TlsOptions,
) -> Result<Endpoint, String> {
    let text = if server.contains("://") { server.to_owned() } else { format!("{}://{server}", scheme_of(server)) };
    let mut base = Url::parse(&text).map_err(|error| format!("{server:?} is no URL: {error}"))?;
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err(format!("{server:?} must begin with http:// or https:// and a host"));
    }
    if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
        return Err(format!("{server:?} must have no user, password or query; credentials come from pull secrets"));
    }
    let path = base.path().trim_end_matches('/').to_owned();
    // containerd adds the API's version unless the file says that it is there.
    let path = if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    base.set_path(&path);
    let can = |wanted| capabilities.is_none_or(|listed| listed.contains(&wanted));
    let name = authority(&base);
    // Compared as URLs: a port that is the scheme's own, and capitals, make no other server.
    let own = Url::parse(&format!("{}://{registry}", base.scheme())).map(|url| authority(&url));
    let is_mirror = own.as_ref() != Ok(&name) && !(registry == DOCKER_HUB.0 && name == DOCKER_HUB.1);
    Ok(Endpoint { resolves: can(Capability::Resolve), pulls: can(Capability::Pull), is_mirror, name, base, tls })
}

/// The registry itself, as it is reached without a word of configuration.
fn own_endpoint(host: &str) -> Result<Endpoint, HostsError> {
    let server = if host == DOCKER_HUB.0 { DOCKER_HUB.1 } else { host };
    endpoint(server, host, None, false, TlsOptions::default()).map_err(|_| HostsError::Host(host.to_owned()))
}

/// Plain HTTP for this host only: nobody can listen in on the way.
fn scheme_of(host: &str) -> &'static str {
    let url = Url::parse(&format!("http://{host}"));
    let is_loopback = url.is_ok_and(|url| is_loopback(&url));
    if is_loopback { "http" } else { "https" }
}

/// Whether a URL's host is this host.
pub(super) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(url::Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        None => false,
    }
}

/// Host, and port where it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
        endpoints.iter().map(|endpoint| endpoint.base.as_str()).collect()
    }

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for (host, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("quay.io", "https://quay.io/v2"),
            ("localhost", "http://localhost/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.7:5000", "http://127.0.0.7:5000/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/v2"),
            ("localhost.example.com", "https://localhost.example.com/v2"),
            ("127.0.0.1.example.com", "https://127.0.0.1.example.com/v2"),
            ("host:443", "https://host/v2"),
        ] {
            let endpoints = endpoints_of(Path::new("/nonexistent"), host).unwrap();
            assert_eq!(bases(&endpoints), [base]);
            assert!(endpoints[0].resolves && endpoints[0].pulls, "{host}");
        }
    }

    #[test]
    fn a_file_names_mirrors_in_its_own_order_and_then_the_registry() {
        let directory = tempfile::tempdir().unwrap();
        let of = |host: &str| directory.path().join(host);
        std::fs::create_dir(of("quay.io")).unwrap();
        let text = r#"
            server = "https://quay.io"
            [host."http://z.example:8080"]
              capabilities = ["pull"]
            [host."https://a.example/cache/v2/"]
              override_path = true
              skip_verify = true
            [host."https://b.example/sub"]
              ca = ["one.pem", "/etc/two.pem"]
        "#;
        std::fs::write(of("quay.io").join(HOSTS_FILE), text).unwrap();
        let endpoints = endpoints_of(directory.path(), "quay.io").unwrap();
        let all = [
            "http://z.example:8080/v2",
            "https://a.example/cache/v2",
            "https://b.example/sub/v2",
            "https://quay.io/v2",
        ];
        assert_eq!(bases(&endpoints), all);
        assert_eq!(endpoints.iter().map(|e| e.resolves).collect::<Vec<_>>(), [false, true, true, true]);
        assert_eq!(endpoints.iter().map(|e| e.is_mirror).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(endpoints.iter().map(|e| e.tls.skip_verify).collect::<Vec<_>>(), [false, true, false, false]);
        assert_eq!(endpoints[2].tls.authorities, [of("quay.io").join("one.pem"), "/etc/two.pem".into()]);
        assert_eq!(bases(&endpoints_of(directory.path(), "other.io").unwrap()), ["https://other.io/v2"]);
    }

    #[test]
    fn ports_and_the_default_have_directories_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("a.io_5000_", "ca = 'a.pem'"),
            ("b.io:5000", "server = 'http://b.io:5000'"),
            ("_default", "[host.'http://cache.example']"),
        ] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            std::fs::write(directory.path().join(name).join(HOSTS_FILE), text).unwrap();
        }
        let of = |host| endpoints_of(directory.path(), host).unwrap();
        assert_eq!(bases(&of("a.io:5000")), ["https://a.io:5000/v2"]);
        assert_eq!(of("a.io:5000")[0].tls.authorities, [directory.path().join("a.io_5000_/a.pem")]);
        assert_eq!(bases(&of("b.io:5000")), ["http://b.io:5000/v2"]);
        assert_eq!(bases(&of("c.io")), ["http://cache.example/v2", "https://c.io/v2"]);
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused_by_name() {
        for (text, part) in [
            ("server = 5", "server"),
            ("sever = 'https://a'", "sever"),
            ("[host.'https://a']\nskip_verfy = true", "skip_verfy"),
            ("[host.'https://a']\ncapabilities = ['pul']", "pul"),
            ("[host.'https://a']\nclient = 'c.pem'", "client"),
            ("server = 'ftp://a'", "http://"),
            ("server = 'https://u:p@a'", "pull secrets"),
            ("[host", "TOML"),
        ] {
            let error = parse(text, Path::new("/d"), "quay.io").unwrap_err();
            assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
