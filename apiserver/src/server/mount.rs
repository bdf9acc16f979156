//! Routers that the embedding program serves through this server.

use std::fmt;

/// A mounted API group version, such as `subresources.kubevirt.io/v1alpha1`.
#[derive(Clone)]
pub struct Mount {
    /// API group.
    pub group: String,
    /// API version.
    pub version: String,
    /// The `resources` of the version's `APIResourceList`: what `GET /apis/<group>/<version>` shows.
    pub resources: Vec<serde_json::Value>,
    /// Serves every path below `/apis/<group>/<version>/`, with the full path in the request's URI. Requests carry the
    /// authenticated [`User`](crate::User) as an extension; connections can be upgraded (websocket).
    pub router: axum::Router,
}

impl Mount {
    /// The path that the mount serves, without a slash at its end.
    pub fn prefix(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }
}

impl fmt::Debug for Mount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mount").field("prefix", &self.prefix()).finish_non_exhaustive()
    }
}
