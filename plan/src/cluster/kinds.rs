//! Whether the cluster's kinds are ours. KubeVirt has definitions of the same names: where they are its, nothing is to be touched.

use std::collections::BTreeMap;

use api::names::{PART_OF, PART_OF_LABEL, VERSION};

/// The definitions that a controller needs.
pub const DEFINITIONS: [&str; 2] = ["offlinevirtualmachines.kubevirt.io", "virtualmachines.kubevirt.io"];

/// A CustomResourceDefinition, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DefinitionFacts {
    /// Value of the label that ours have.
    pub part_of: Option<String>,
    /// Versions that are served.
    pub served: Vec<String>,
    /// Whether the API server has taken it up.
    pub established: bool,
}

/// What is to be done about the kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindsVerdict {
    /// They are ours: work.
    Ours,
    /// Some are not there yet: wait. Says which, and the fix.
    Missing(String),
    /// Some are somebody else's: do nothing. Says which, and the fix.
    Foreign {
        /// Name of the definition.
        definition: &'static str,
        /// What to tell.
        message: String,
    },
}

/// Judges the definitions that there are, by name. One that is not ours outweighs one that is missing.
pub fn judge_kinds(found: &BTreeMap<&'static str, DefinitionFacts>) -> KindsVerdict {
    let foreign = DEFINITIONS.iter().find_map(|name| {
        let facts = found.get(name)?;
        (!is_ours(facts)).then(|| KindsVerdict::Foreign { definition: name, message: foreign_message(name, facts) })
    });
    let missing: Vec<&str> = DEFINITIONS
        .into_iter()
        .filter(|name| found.get(name).is_none_or(|facts| !facts.established || !serves_ours(facts)))
        .collect();
    match foreign {
        Some(verdict) => verdict,
        None if missing.is_empty() => KindsVerdict::Ours,
        None => KindsVerdict::Missing(format!(
            "CustomResourceDefinition {} is not served at {VERSION}; apply the manifests of this version",
            missing.join(" and ")
        )),
    }
}

fn is_ours(facts: &DefinitionFacts) -> bool {
    facts.part_of.as_deref() == Some(PART_OF)
}

fn serves_ours(facts: &DefinitionFacts) -> bool {
    facts.served.iter().any(|version| version == VERSION)
}

fn foreign_message(name: &str, facts: &DefinitionFacts) -> String {
    format!(
        "CustomResourceDefinition {name} (versions {}) lacks label {PART_OF_LABEL}={PART_OF}: it is another program's, such as KubeVirt's; \
         ovm does nothing on this cluster until that program and its definitions are removed",
        if facts.served.is_empty() { "none".to_owned() } else { facts.served.join(", ") }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> DefinitionFacts {
        DefinitionFacts { part_of: Some("ovm".to_owned()), served: vec!["v1alpha1".to_owned()], established: true }
    }

    fn judge(ovm: Option<DefinitionFacts>, vm: Option<DefinitionFacts>) -> KindsVerdict {
        judge_kinds(&DEFINITIONS.into_iter().zip([ovm, vm]).filter_map(|(name, facts)| Some((name, facts?))).collect())
    }

    #[test]
    fn both_of_ours_are_ours_also_with_newer_versions_beside() {
        assert_eq!(judge(Some(ours()), Some(ours())), KindsVerdict::Ours);
        let newer = DefinitionFacts { served: vec!["v1".to_owned(), "v1alpha1".to_owned()], ..ours() };
        assert_eq!(judge(Some(newer), Some(ours())), KindsVerdict::Ours);
    }

    #[test]
    fn kubevirts_are_foreign_also_while_ours_are_missing() {
        let kubevirt =
            DefinitionFacts { part_of: None, served: vec!["v1".to_owned(), "v1alpha3".to_owned()], established: true };
        for ovm in [None, Some(ours())] {
            let KindsVerdict::Foreign { definition, message } = judge(ovm, Some(kubevirt.clone())) else {
                unreachable!("the label is missing");
            };
            assert_eq!(definition, "virtualmachines.kubevirt.io");
            assert!(message.contains("v1, v1alpha3") && message.contains("app.kubernetes.io/part-of=ovm"), "{message}");
        }
        // KubeVirt's own of 2018 had our very version.
        let old = DefinitionFacts { part_of: None, ..ours() };
        assert!(matches!(judge(Some(old), Some(ours())), KindsVerdict::Foreign { .. }));
    }

    #[test]
    fn what_is_not_there_or_not_served_yet_is_named() {
        let KindsVerdict::Missing(message) = judge(None, Some(ours())) else { unreachable!("one is missing") };
        assert!(message.contains("offlinevirtualmachines.kubevirt.io is not served"), "{message}");
        let young = DefinitionFacts { established: false, ..ours() };
        assert!(matches!(judge(Some(ours()), Some(young)), KindsVerdict::Missing(_)));
        let other = DefinitionFacts { served: vec!["v1".to_owned()], ..ours() };
        assert!(matches!(judge(Some(other), Some(ours())), KindsVerdict::Missing(_)));
    }
}
