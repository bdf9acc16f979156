//! kubectl and virtctl against one server, as a user runs them.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::kube::enter;
use crate::programs::{failure, output, program};

/// A user with a kubeconfig and a home of their own.
#[derive(Debug)]
pub struct Client {
    kubeconfig: PathBuf,
    home: PathBuf,
    /// Words before a program that put it where the server can be reached.
    entrance: Vec<OsString>,
}

impl Client {
    /// A user of the server that wrote this kubeconfig. `home` takes kubectl's cache.
    pub fn new(kubeconfig: &Path, home: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), home: home.to_owned(), entrance: Vec::new() }
    }

    /// The same user, whose programs are run behind these words.
    pub(crate) fn behind(self, entrance: Vec<OsString>) -> Self {
        Self { entrance, ..self }
    }

    /// Its kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl ARGUMENTS`; returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message is what it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        output(self.kubectl_command().args(arguments))
    }

    /// `kubectl ARGUMENTS`, which is to fail; returns what it said.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn kubectl_fails(&self, arguments: &[&str]) -> Result<String> {
        failure(self.kubectl_command().args(arguments))
    }

    /// `kubectl`, to be given arguments and run.
    pub fn kubectl_command(&self) -> Command {
        let mut command = enter(&self.entrance, Path::new("kubectl"));
        self.as_user(&mut command);
        command
    }

    /// `virtctl ARGUMENTS`; returns what it printed.
    ///
    /// # Errors
    /// When it fails; the message is what it said.
    pub fn virtctl(&self, arguments: &[&str]) -> Result<String> {
        output(self.virtctl_command()?.args(arguments))
    }

    /// `virtctl ARGUMENTS`, which is to fail; returns what it said.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn virtctl_fails(&self, arguments: &[&str]) -> Result<String> {
        failure(self.virtctl_command()?.args(arguments))
    }

    /// `virtctl`, to be given arguments and run.
    ///
    /// # Errors
    /// When it is not built.
    pub fn virtctl_command(&self) -> Result<Command> {
        let mut command = enter(&self.entrance, &program("virtctl")?);
        self.as_user(&mut command);
        Ok(command)
    }

    /// `kubectl create -f -` with one object; returns what it printed.
    ///
    /// # Errors
    /// When the server refuses it; the message is what kubectl said.
    pub fn create(&self, object: &Value) -> Result<String> {
        let (succeeded, printed, said) = self.feed(&["create", "-f", "-"], object)?;
        ensure!(succeeded, "{said}");
        Ok(printed)
    }

    /// `kubectl create FLAGS -f -` with one object.
    ///
    /// # Errors
    /// When the server refuses it; the message is what kubectl said.
    pub fn create_with(&self, flags: &[&str], object: &Value) -> Result<String> {
        let (succeeded, printed, said) = self.feed(&[&["create", "-f", "-"], flags].concat(), object)?;
        ensure!(succeeded, "{said}");
        Ok(printed)
    }

    /// `kubectl apply --server-side -f -` with one object or a list.
    ///
    /// # Errors
    /// When the server refuses it; the message is what kubectl said.
    pub fn apply(&self, object: &Value) -> Result<String> {
        let (succeeded, printed, said) =
            self.feed(&["apply", "--server-side", "--force-conflicts", "-f", "-"], object)?;
        ensure!(succeeded, "{said}");
        Ok(printed)
    }

    /// `kubectl replace -f -` with one object.
    ///
    /// # Errors
    /// When the server refuses it; the message is what kubectl said.
    pub fn replace(&self, object: &Value) -> Result<String> {
        let (succeeded, printed, said) = self.feed(&["replace", "-f", "-"], object)?;
        ensure!(succeeded, "{said}");
        Ok(printed)
    }

    /// POST of an object, past kubectl, which leaves out parts of an error: the HTTP status and the body.
    ///
    /// # Errors
    /// When the server cannot be reached, or does not answer with JSON.
    pub fn post(&self, path: &str, object: &Value) -> Result<(u16, Value)> {
        let credentials = Credentials::write(self)?;
        let mut curl = enter(&self.entrance, Path::new("curl"));
        curl.args([
            "--silent",
            "--show-error",
            "--header",
            "Content-Type: application/json",
            "--write-out",
            "\n%{http_code}",
        ]);
        for (flag, file) in
            [("--cacert", &credentials.authority), ("--cert", &credentials.certificate), ("--key", &credentials.key)]
        {
            curl.arg(flag).arg(file);
        }
        let answer =
            output(curl.args(["--data-binary", &object.to_string(), &format!("{}{path}", credentials.server)]))?;
        let (body, code) = answer.rsplit_once('\n').context("curl prints the status last")?;
        let body = serde_json::from_str(body).with_context(|| format!("read the answer {body}"))?;
        Ok((code.parse().with_context(|| format!("read the status {code}"))?, body))
    }

    /// GET of a path; `None` if there is nothing.
    ///
    /// # Errors
    /// When the server cannot be reached, or answers with another error than 404.
    pub fn get(&self, path: &str) -> Result<Option<Value>> {
        match self.kubectl(&["get", "--raw", path]) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("read {path}")).map(Some),
            Err(error) if error.to_string().contains("(NotFound)") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Merges `patch` into an object.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn merge(&self, kind: &str, namespace: &str, name: &str, patch: &Value) -> Result<()> {
        self.kubectl(&["patch", kind, name, "-n", namespace, "--type", "merge", "-p", &patch.to_string()]).map(drop)
    }

    fn as_user<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home).env_remove("RUST_BACKTRACE")
    }

    fn feed(&self, arguments: &[&str], object: &Value) -> Result<(bool, String, String)> {
        let mut child = self
            .kubectl_command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("run kubectl")?;
        let mut input = child.stdin.take().context("kubectl has no input")?;
        input.write_all(object.to_string().as_bytes()).context("feed kubectl")?;
        drop(input);
        let output = child.wait_with_output().context("wait for kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }
}

/// What the kubeconfig holds, as files for programs that do not read one.
#[derive(Debug)]
struct Credentials {
    server: String,
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Credentials {
    fn write(client: &Client) -> Result<Self> {
        let text = client.kubectl(&["config", "view", "--raw", "--flatten", "-o", "json"])?;
        let config: Value = serde_json::from_str(&text).context("read the kubeconfig")?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let save = |name: &str, data: &Value| {
            let data = data.as_str().with_context(|| format!("the kubeconfig has no {name}"))?;
            let bytes = STANDARD.decode(data).with_context(|| format!("decode {name}"))?;
            let path = client.home.join(name);
            std::fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))?;
            anyhow::Ok(path)
        };
        Ok(Self {
            server: cluster["server"].as_str().context("the kubeconfig has no server")?.to_owned(),
            authority: save("authority.pem", &cluster["certificate-authority-data"])?,
            certificate: save("certificate.pem", &user["client-certificate-data"])?,
            key: save("key.pem", &user["client-key-data"])?,
        })
    }
}
