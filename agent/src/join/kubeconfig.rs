//! The kubeconfig of a joined agent. It names the file of the certificate, so that it stays as it is when that is renewed.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::JoinError;
use crate::credentials::CredentialStore;
use crate::hostfs::FileError;

/// The file's text.
pub(super) fn render(server: &http::Uri, authority: &str, credentials: &Path) -> String {
    // A JSON string is a YAML one.
    let quoted = |text: String| serde_json::Value::from(text).to_string();
    let server = quoted(server.to_string().trim_end_matches('/').to_owned());
    let file = quoted(credentials.display().to_string());
    format!(
        "# Written by `ovm-agent join`.
apiVersion: v1
kind: Config
clusters:
- name: cluster
  cluster:
    server: {server}
    certificate-authority-data: {authority}
users:
- name: agent
  user:
    client-certificate: {file}
    client-key: {file}
contexts:
- name: agent
  context:
    cluster: cluster
    user: agent
current-context: agent
",
        authority = STANDARD.encode(authority),
    )
}

/// Writes it (0600) for the agent's user, whole or not at all.
pub(super) fn write(path: &Path, text: &str, store: &CredentialStore) -> Result<(), JoinError> {
    let unfinished = path.with_extension("unfinished");
    let failed = |error: std::io::Error| FileError::new("write", path, error);
    let write = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).map_err(failed)?;
        store.hand_over(&file, &unfinished)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&unfinished, path).map_err(failed)
    };
    write().map_err(JoinError::from)
}

#[cfg(test)]
mod tests {
    use kube::config::Kubeconfig;

    use super::*;

    #[test]
    fn the_file_is_a_kubeconfig_that_names_one_file_for_both() {
        let server: http::Uri = "https://10.0.0.1:6443/".parse().unwrap();
        let text = render(&server, "PEM", Path::new("/var/lib/o\"v:m/agent.pem"));
        let read = Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(read.clusters[0].cluster.as_ref().unwrap().server.as_deref(), Some("https://10.0.0.1:6443"));
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        assert_eq!(user.client_certificate.as_deref(), Some("/var/lib/o\"v:m/agent.pem"));
        assert_eq!(user.client_key, user.client_certificate);
    }
}
