//! Debian's `docker-registry` on loopback, with a password and TLS if a test wants them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

use super::TestImage;
use super::image::digest;
use super::token::{ISSUER, SERVICE, TokenServer};
use crate::ports::free_address;
use crate::programs::output;
use crate::wait::wait_for;

/// The only user of a registry with a password.
pub const USER: &str = "puller";
/// Their password.
pub const PASSWORD: &str = "correct-horse-battery-staple";
/// [`PASSWORD`] as htpasswd keeps it (bcrypt, cost 4: it is checked with every request).
const PASSWORD_HASH: &str = "$2y$04$WNch.b1vn88DhAuVZsb5le/jwqn15WfS.4i6P.nqWlicLjwUv7OqG";
const DEADLINE: Duration = Duration::from_secs(20);

/// How a registry is reached.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Only for [`USER`].
    pub password: bool,
    /// Only for who has a token of a [`TokenServer`], which wants the same password.
    pub token: bool,
    /// By https, with a certificate that only [`DockerRegistry::authority`] vouches for.
    pub tls: bool,
}

/// A running registry. It ends with this.
#[derive(Debug)]
pub struct DockerRegistry {
    directory: PathBuf,
    port: u16,
    options: Options,
    tokens: Option<TokenServer>,
    child: Child,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Why this host has no registry; none if it has.
pub fn why_unavailable() -> Option<String> {
    let found = Command::new("docker-registry").arg("--version").output().is_ok_and(|output| output.status.success());
    (!found).then(|| "docker-registry is not installed (make install)".to_owned())
}

impl DockerRegistry {
    /// Starts one with its files in `directory`, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up in time; the message then carries its log.
    pub fn start(directory: &Path, options: Options) -> Result<Self> {
        fs::create_dir_all(directory).context("make the registry's directory")?;
        let port = free_address()?.port();
        let config = directory.join("config.yml");
        let tokens = options.token.then(|| TokenServer::start(&directory.join("tokens.pem"))).transpose()?;
        fs::write(&config, configuration(directory, port, options, tokens.as_ref())?)
            .context("write the registry's configuration")?;
        let log = fs::File::create(directory.join("log")).context("make the registry's log")?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log)
            .spawn()
            .context("run docker-registry")?;
        let registry = Self { directory: directory.to_owned(), port, options, tokens, child };
        // Whoever it lets in, it answers.
        wait_for("the registry answers", DEADLINE, || registry.curl(&[&registry.url("/v2/")]))
            .with_context(|| registry.log())?;
        Ok(registry)
    }

    /// How images in it are named: `localhost:PORT/NAME`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Host and port.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// PEM of the authority that vouches for its certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Who gives tokens for it; none where none are wanted.
    pub fn tokens(&self) -> Option<&TokenServer> {
        self.tokens.as_ref()
    }

    /// What it wrote.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// How often it was asked for a path with these words in it by others than curl.
    pub fn requests(&self, method: &str, words: &str) -> usize {
        let log = self.log();
        let ours = log.lines().filter(|line| line.contains("\"ovm-agent/") || line.contains("ovm-agent/"));
        ours.filter(|line| line.contains(&format!("\"{method} ")) && line.contains(words)).count()
    }

    /// Puts an image there: `NAME:TAG`.
    ///
    /// # Errors
    /// When the registry refuses it.
    pub fn push(&self, name: &str, image: &TestImage) -> Result<()> {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let access = self.tokens.as_ref().map(|tokens| tokens.token(repository, &["pull", "push"])).transpose()?;
        let access =
            access.map_or_else(Vec::new, |token| vec!["-H".to_owned(), format!("Authorization: Bearer {token}")]);
        let access: Vec<&str> = access.iter().map(String::as_str).collect();
        for blob in &image.blobs {
            self.push_blob(repository, blob, &access)?;
        }
        let manifest = self.scratch("manifest", image.manifest.to_string().as_bytes())?;
        let content_type = format!("Content-Type: {}", image.media_type());
        let url = self.url(&format!("/v2/{repository}/manifests/{tag}"));
        self.curl(
            &[&access, &["--fail", "-X", "PUT", "-H", &content_type, "--data-binary", &manifest, &url][..]].concat(),
        )?;
        self.tokens.as_ref().map_or(Ok(()), |tokens| tokens.let_pull(repository))
    }

    fn push_blob(&self, repository: &str, blob: &[u8], access: &[&str]) -> Result<()> {
        let uploads = self.url(&format!("/v2/{repository}/blobs/uploads/"));
        let post = ["--fail", "-X", "POST", "-o", "/dev/null", "-w", "%header{location}", &uploads];
        let location = self.curl_output(&[access, &post].concat())?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={}", digest(blob));
        let file = self.scratch("blob", blob)?;
        let octets = "Content-Type: application/octet-stream";
        self.curl(&[access, &["--fail", "-X", "PUT", "-H", octets, "--data-binary", &file, &url]].concat())
    }

    /// curl, with what it takes to be let in.
    ///
    /// # Errors
    /// When it fails.
    pub fn curl(&self, arguments: &[&str]) -> Result<()> {
        self.curl_output(arguments).map(drop)
    }

    fn curl_output(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error"]);
        if self.options.tls {
            command.arg("--cacert").arg(self.authority());
        }
        if self.options.password {
            command.args(["--user", &format!("{USER}:{PASSWORD}")]);
        }
        output(command.args(arguments))
    }

    fn url(&self, path: &str) -> String {
        let scheme = if self.options.tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.host())
    }

    fn scratch(&self, name: &str, bytes: &[u8]) -> Result<String> {
        let path = self.directory.join(name);
        fs::write(&path, bytes).context("write what is to be pushed")?;
        Ok(format!("@{}", path.display()))
    }

    /// A directory for `--registries-dir` that says how to reach this registry by TLS.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn registries_dir(&self) -> Result<PathBuf> {
        let directory = self.directory.join("registries.d");
        let of_host = directory.join(self.host());
        fs::create_dir_all(&of_host).context("make the directory of registries")?;
        let file = format!("server = \"{}\"\nca = \"{}\"\n", self.url(""), self.authority().display());
        fs::write(of_host.join("hosts.toml"), file).context("write hosts.toml")?;
        Ok(directory)
    }

    /// A `.dockerconfigjson` for it.
    pub fn pull_secret(&self) -> String {
        serde_json::json!({"auths": {self.host(): {"username": USER, "password": PASSWORD}}}).to_string()
    }
}

fn configuration(directory: &Path, port: u16, options: Options, tokens: Option<&TokenServer>) -> Result<String> {
    let mut config = format!(
        "version: 0.1\nlog: {{accesslog: {{disabled: false}}, level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}/data}}}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
        directory.display()
    );
    if options.tls {
        make_certificate(directory)?;
        let directory = directory.display();
        writeln!(config, "  tls: {{certificate: {directory}/server.pem, key: {directory}/server.key}}")?;
    }
    if options.password {
        let file = directory.join("htpasswd");
        fs::write(&file, format!("{USER}:{PASSWORD_HASH}\n")).context("write the password")?;
        writeln!(config, "auth: {{htpasswd: {{realm: test, path: {}}}}}", file.display())?;
    }
    if let Some(tokens) = tokens {
        let (realm, authority) = (tokens.realm(), directory.join("tokens.pem"));
        let authority = authority.display();
        writeln!(
            config,
            "auth: {{token: {{realm: \"{realm}\", service: {SERVICE}, issuer: {ISSUER}, rootcertbundle: {authority}}}}}"
        )?;
    }
    Ok(config)
}

fn make_certificate(directory: &Path) -> Result<()> {
    let mut authority = CertificateParams::new(Vec::new()).context("make the authority")?;
    // The certificate's own name is rcgen's default, and nobody signs itself.
    authority.distinguished_name.push(DnType::CommonName, "authority of a test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?).context("sign the authority")?;
    let key = KeyPair::generate().context("make a key")?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &authority)?;
    fs::write(directory.join("ca.pem"), authority.pem()).context("write the authority")?;
    fs::write(directory.join("server.pem"), certificate.pem()).context("write the certificate")?;
    fs::write(directory.join("server.key"), key.serialize_pem()).context("write the key")
}
