//! The kubeconfig of a joined agent. It names the file of the certificate, so that it stays as it is when that is renewed.

use std::ffi::OsStr;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::JoinError;
use crate::credentials::CredentialStore;
use crate::hostfs::{Directory, FileError};

/// Ending of a file that is made to see whether one can be.
const TRIAL_SUFFIX: &str = ".trial";

/// Where the kubeconfig is to be written.
#[derive(Debug)]
pub(super) struct Place {
    directory: Directory,
    name: String,
}

impl Place {
    /// Makes what is missing of the directory, and sees that a file can be made in it: after the token is used up, it would be too late.
    pub(super) fn open(path: &Path) -> Result<Self, JoinError> {
        let not_a_file = || FileError::new("write", path, io::Error::from(io::ErrorKind::InvalidFilename));
        let name = path.file_name().and_then(OsStr::to_str).ok_or_else(not_a_file)?.to_owned();
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if path.is_dir() {
            return Err(FileError::new("write", path, io::Error::from(io::ErrorKind::IsADirectory)).into());
        }
        let place = Self { directory: Directory::open_or_create_root(parent)?, name };
        let trial = format!("{}{TRIAL_SUFFIX}", place.name);
        place.directory.remove_file_if_exists(&trial)?;
        place.directory.create_file(&trial)?;
        place.directory.remove_file_if_exists(&trial)?;
        Ok(place)
    }

    /// Writes it (0600) for the agent's user, whole or not at all.
    pub(super) fn write(&self, text: &str, store: &CredentialStore) -> Result<(), JoinError> {
        Ok(store.write_into(&self.directory, &self.name, text)?)
    }
}

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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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

    #[test]
    fn a_place_that_cannot_be_written_is_found_before_it_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(&folder.path().join("data")).unwrap();
        let path = folder.path().join("etc/ovm/agent.kubeconfig");
        let place = Place::open(&path).unwrap();
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0, "the trial is left");
        place.write("text", &store).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "text");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        for wrong in
            [folder.path().to_owned(), path.join("below-a-file"), Path::new("/proc/agent.kubeconfig").to_owned()]
        {
            let error = Place::open(&wrong).unwrap_err();
            assert!(matches!(error, JoinError::File(_)), "{}: {error}", wrong.display());
        }
    }
}
