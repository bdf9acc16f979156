//! Certificates of joined agents, as the host has them on disk and the API server has seen them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::client::Client;
use crate::wait::wait_for;

/// For two renewals, of which the first may be ten seconds away.
const DEADLINE: Duration = Duration::from_mins(1);

/// SHA-256 of the first certificate in a PEM text, in hexadecimal digits.
///
/// # Errors
/// When there is none.
pub fn certificate_hash(pem: &str) -> Result<String> {
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = openssl.spawn().context("run openssl")?;
    child.stdin.take().context("openssl reads")?.write_all(pem.as_bytes())?;
    let printed = String::from_utf8(child.wait_with_output()?.stdout)?;
    let digest = printed.trim().split_once('=').context("openssl prints the fingerprint")?.1;
    Ok(digest.replace(':', "").to_lowercase())
}

/// Waits until the agent of `node` has asked for a certificate with another one than that of hash `first`, as the API server says in the request: it was
/// renewed, and what was renewed is used.
///
/// # Errors
/// When it has not, in time.
pub fn wait_for_renewal(client: &Client, node: &str, first: &str) -> Result<()> {
    let user = format!("kubevirt.io:node:{node}");
    wait_for("a renewed certificate is used to renew", DEADLINE, || {
        let list = client.get("/apis/certificates.k8s.io/v1/certificatesigningrequests")?.context("no requests")?;
        let requests = list["items"].as_array().context("a list has items")?;
        let of_agent = requests.iter().filter(|request| request["spec"]["username"] == user.as_str());
        let shown: Vec<&str> = of_agent
            .filter_map(|request| request["spec"]["extra"]["authentication.kubernetes.io/credential-id"][0].as_str())
            .collect();
        let hashes = shown.iter().filter_map(|shown| shown.strip_prefix("X509SHA256="));
        let renewed = hashes.into_iter().any(|hash| hash != first);
        renewed.then_some(()).with_context(|| format!("the requests were made with {shown:?}, the first is {first}"))
    })
}
