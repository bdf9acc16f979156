//! Pull secrets: a `.dockerconfigjson`, and which of its entries is for which registry.
//!
//! Format: <https://kubernetes.io/docs/tasks/configure-pod-container/pull-image-private-registry/>. Nothing of a secret is ever shown: not by `Debug`, not in an
//! error.

use std::collections::BTreeMap;
use std::fmt;

use ::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::images::ImageName;

/// The names under which container tools file Docker Hub.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// User and password for one registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: String,
    password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// The header that shows them: `Authorization: Basic ..`, marked as sensitive.
    pub(super) fn to_basic(&self) -> Option<HeaderValue> {
        let text = format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)));
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

/// The registries of one pull secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PullSecrets {
    entries: BTreeMap<String, Credentials>,
}

impl fmt::Debug for PullSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.keys()).finish()
    }
}

/// Why a pull secret cannot be used. Says which entry, never what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Not the JSON that it has to be. The parser's words would show what it read.
    #[error(
        "the pull secret is no .dockerconfigjson: {{\"auths\": {{\"HOST\": {{\"auth\": BASE64 OF USER:PASSWORD}}}}}}"
    )]
    NotJson,
    /// An entry without user and password.
    #[error(
        "the pull secret's entry for {0} has no user and password: auth must be base64 of USER:PASSWORD; tokens of credential helpers are not supported"
    )]
    NoPassword(String),
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl PullSecrets {
    /// Reads a `.dockerconfigjson`.
    ///
    /// # Errors
    /// If it is no such file, or an entry holds no user and password.
    pub fn from_docker_config(bytes: &[u8]) -> Result<Self, CredentialsError> {
        let config: DockerConfig = serde_json::from_slice(bytes).map_err(|_| CredentialsError::NotJson)?;
        let mut entries = BTreeMap::new();
        for (key, entry) in config.auths {
            let credentials = entry.credentials().ok_or_else(|| CredentialsError::NoPassword(key.clone()))?;
            entries.insert(normalise(&key), credentials);
        }
        Ok(Self { entries })
    }

    /// The credentials for the repository of `name` at `host`: those of the entry with the longest path that the repository lies under.
    pub fn find(&self, host: &str, name: &ImageName) -> Option<&Credentials> {
        let host = normalise(host);
        let matches = |key: &&String| match key.split_once('/') {
            None => **key == host,
            Some((key_host, path)) => {
                let rest = name.repository().strip_prefix(path);
                key_host == host && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        };
        let longest = self.entries.keys().filter(matches).max_by_key(|key| key.len())?;
        self.entries.get(longest)
    }
}

impl Entry {
    fn credentials(self) -> Option<Credentials> {
        let (user, password) = if self.auth.is_empty() {
            (self.username, self.password)
        } else {
            let decoded = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
            let (user, password) = decoded.split_once(':')?;
            (user.to_owned(), password.to_owned())
        };
        (!user.is_empty() && !password.is_empty()).then_some(Credentials { user, password })
    }
}

/// A key as `HOST` or `HOST/PATH`: tools write scheme and API version too.
fn normalise(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, path) = key.split_once('/').map_or((key, None), |(host, path)| (host, Some(path)));
    let host = if DOCKER_HUB.contains(&host) { DOCKER_HUB[0] } else { host };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> PullSecrets {
        let auth = |text: &str| STANDARD.encode(text);
        let json = serde_json::json!({"auths": {
            "https://index.docker.io/v1/": {"auth": auth("hub:1")},
            "quay.io": {"username": "quay", "password": "2"},
            "quay.io/team": {"auth": auth("team:3:4")},
            "https://localhost:5000/v2/": {"auth": auth("local:5")},
        }});
        PullSecrets::from_docker_config(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_entry_with_the_longest_path_is_taken() {
        let secrets = secrets();
        for (image, user) in [
            ("debian", Some("hub")),
            ("quay.io/other/a", Some("quay")),
            ("quay.io/team/a", Some("team")),
            ("quay.io/team", Some("team")),
            ("quay.io/teams/a", Some("quay")),
            ("localhost:5000/a", Some("local")),
            ("localhost:5001/a", None),
            ("localhost/a", None),
            ("io/a", Some("hub")),
        ] {
            let name: ImageName = image.parse().unwrap();
            let found = secrets.find(name.host(), &name).map(|found| found.user.as_str());
            assert_eq!(found, user, "{image}");
        }
        let team: ImageName = "quay.io/team/a".parse().unwrap();
        let header = secrets.find("quay.io", &team).unwrap().to_basic().unwrap();
        assert_eq!(header, format!("Basic {}", STANDARD.encode("team:3:4")));
    }

    #[test]
    fn i7_nothing_of_a_secret_is_shown() {
        let shown = format!("{:?} {:?}", secrets(), secrets().entries.values().next());
        for hidden in ["team:", "3:4", &STANDARD.encode("team:3:4")] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        let broken = br#"{"auths": {"quay.io": {"auth": hunter2}}}"#;
        for bytes in [
            &broken[..],
            br#"{"auths": {"quay.io": {"auth": "aHVudGVyMg=="}}}"#,
            br#"{"auths": {"quay.io": {"identitytoken": "hunter2"}}}"#,
        ] {
            let error = PullSecrets::from_docker_config(bytes).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
