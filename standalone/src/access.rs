//! What joined agents, and hosts that join, may do here: the very documents that a cluster is installed with.

use anyhow::{Context as _, Result};
use apiserver::AccessRules;
use serde_json::Value;

/// Of `manifests/base`.
const MANIFESTS: [(&str, &str); 3] = [
    ("agent-rbac.yaml", include_str!("../../manifests/base/agent-rbac.yaml")),
    ("agent-identity.yaml", include_str!("../../manifests/base/agent-identity.yaml")),
    ("joining.yaml", include_str!("../../manifests/base/joining.yaml")),
];

/// The rules.
///
/// # Errors
/// When a manifest that was built in cannot be used.
pub(crate) fn rules() -> Result<AccessRules> {
    let mut documents: Vec<Value> = Vec::new();
    for (file, text) in MANIFESTS {
        let read: Vec<Value> = serde_saphyr::from_multiple(text).with_context(|| format!("read {file}"))?;
        documents.extend(read);
    }
    AccessRules::from_documents(&documents).context("use the manifests of agents")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_can_be_used() {
        rules().unwrap();
    }
}
