//! Whether a kubeconfig is a joined agent's: its user has certificate and key in one file, which names a node.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{AuthInfo, Kubeconfig};

use super::{CertificateError, ClientCertificate};

/// A joined agent's certificate in force, and where it is kept.
#[derive(Clone, Debug)]
pub struct JoinedIdentity {
    /// The file.
    pub file: PathBuf,
    /// What is in it.
    pub certificate: ClientCertificate,
}

/// The file that a joined agent's kubeconfig names is of no use.
#[derive(Debug, thiserror::Error)]
pub enum IdentityFileError {
    /// It cannot be read.
    #[error("read {}; `ovm-agent join` makes it", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{}; `ovm-agent join` makes it anew", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CertificateError,
    },
}

impl JoinedIdentity {
    /// The identity that a kubeconfig names; none if it is not a joined agent's.
    ///
    /// # Errors
    /// If it is, and its file is of no use.
    pub fn of(kubeconfig: &Kubeconfig) -> Result<Option<Self>, IdentityFileError> {
        let Some(path) = credentials(kubeconfig).and_then(one_file) else { return Ok(None) };
        let text =
            std::fs::read_to_string(&path).map_err(|source| IdentityFileError::Read { path: path.clone(), source })?;
        let certificate = ClientCertificate::parse(&text)
            .map_err(|source| IdentityFileError::Content { path: path.clone(), source })?;
        Ok(Some(Self { file: path, certificate }))
    }

    /// The kubeconfig with a certificate in it, in the place of the file's.
    pub(crate) fn with(kubeconfig: &Kubeconfig, certificate: &ClientCertificate) -> Kubeconfig {
        let mut kubeconfig = kubeconfig.clone();
        for user in kubeconfig.auth_infos.iter_mut().filter_map(|user| user.auth_info.as_mut()) {
            if one_file(user).is_some() {
                let key =
                    serde_json::from_value(serde_json::json!({"client-key-data": STANDARD.encode(&certificate.key)}));
                // The type that holds secrets is not public; reading it as a kubeconfig would be cannot fail for a text.
                user.client_key_data = key.map(|auth: AuthInfo| auth.client_key_data).unwrap_or_default();
                user.client_certificate_data = Some(STANDARD.encode(&certificate.certificates));
                (user.client_certificate, user.client_key) = (None, None);
            }
        }
        kubeconfig
    }
}

/// The user of the current context.
fn credentials(kubeconfig: &Kubeconfig) -> Option<&AuthInfo> {
    let current = kubeconfig.current_context.as_ref()?;
    let context = kubeconfig.contexts.iter().find(|context| context.name == *current)?.context.as_ref()?;
    let user = context.user.as_ref()?;
    kubeconfig.auth_infos.iter().find(|one| one.name == *user)?.auth_info.as_ref()
}

/// The file that holds certificate and key both.
fn one_file(user: &AuthInfo) -> Option<PathBuf> {
    let file = user.client_certificate.as_ref()?;
    (user.client_key.as_ref() == Some(file)).then(|| PathBuf::from(file))
}
