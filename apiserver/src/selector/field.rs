//! Field selectors: `metadata.name=a,status.phase!=Running`, and which fields each resource has for them.
//!
//! Grammar and texts of `fields.ParseSelector`: <https://pkg.go.dev/k8s.io/apimachinery/pkg/fields>; custom resources:
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#crd-selectable-fields>.

use std::borrow::Cow;
use std::fmt;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::SelectorError;
use crate::schema::builtin::Builtin;

/// A parsed field selector. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Term {
    field: String,
    is_equal: bool,
    value: String,
}

/// The fields of one resource that selectors may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectableFields {
    fields: Vec<Field>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    /// Name in selectors.
    name: Cow<'static, str>,
    /// JSON pointers to look at in turn.
    pointers: Vec<Cow<'static, str>>,
    /// What an object has that lacks the field.
    absent: &'static str,
}

impl SelectableFields {
    /// The fields of a built-in kind.
    pub fn of_builtin(kind: Builtin) -> Self {
        let mut fields = metadata_fields(kind.is_namespaced());
        let mut add = |name: &'static str, pointers: &[&'static str]| {
            fields.push(Field::of(name, pointers));
        };
        match kind {
            Builtin::Event => {
                add("involvedObject.kind", &["/involvedObject/kind"]);
                add("involvedObject.namespace", &["/involvedObject/namespace"]);
                add("involvedObject.name", &["/involvedObject/name"]);
                add("involvedObject.uid", &["/involvedObject/uid"]);
                add("involvedObject.apiVersion", &["/involvedObject/apiVersion"]);
                add("involvedObject.resourceVersion", &["/involvedObject/resourceVersion"]);
                add("involvedObject.fieldPath", &["/involvedObject/fieldPath"]);
                add("reason", &["/reason"]);
                add("reportingComponent", &["/reportingComponent"]);
                add("source", &["/source/component", "/reportingComponent"]);
                add("type", &["/type"]);
            }
            Builtin::Secret => add("type", &["/type"]),
            Builtin::Namespace => add("status.phase", &["/status/phase"]),
            Builtin::CertificateSigningRequest => add("spec.signerName", &["/spec/signerName"]),
            Builtin::Node => {
                fields.push(Field { absent: "false", ..Field::of("spec.unschedulable", &["/spec/unschedulable"]) });
            }
            Builtin::ConfigMap
            | Builtin::PersistentVolume
            | Builtin::PersistentVolumeClaim
            | Builtin::Lease
            | Builtin::ControllerRevision
            | Builtin::CustomResourceDefinition => {}
        }
        Self { fields }
    }

    /// The fields of version `version` of `crd`: name, namespace, and its `selectableFields`.
    pub fn of_crd(crd: &CustomResourceDefinition, version: &str) -> Self {
        let mut fields = metadata_fields(crd.spec.scope == "Namespaced");
        let version = crd.spec.versions.iter().find(|v| v.name == version);
        for field in version.and_then(|v| v.selectable_fields.as_ref()).into_iter().flatten() {
            // The server admits only plain paths here: `.spec.color`.
            let name = field.json_path.trim_start_matches('.').to_owned();
            let pointer = format!("/{}", name.replace('.', "/"));
            fields.push(Field { name: Cow::Owned(name), pointers: vec![Cow::Owned(pointer)], absent: "" });
        }
        Self { fields }
    }

    /// Fields at plain paths: the name in selectors, and the JSON pointer to look at.
    pub(crate) fn of_paths(is_namespaced: bool, paths: &[(&'static str, &'static str)]) -> Self {
        let mut fields = metadata_fields(is_namespaced);
        fields.extend(paths.iter().map(|(name, pointer)| Field::of(name, &[pointer])));
        Self { fields }
    }

    /// What selectors see of an object, in the order of the fields.
    pub(crate) fn values<'a>(&self, object: &'a Value) -> Vec<Cow<'a, str>> {
        self.fields.iter().map(|field| field.text(object)).collect()
    }

    fn find(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl Field {
    fn of(name: &'static str, pointers: &[&'static str]) -> Self {
        let pointers = pointers.iter().copied().map(Cow::Borrowed).collect();
        Self { name: Cow::Borrowed(name), pointers, absent: "" }
    }

    /// The first non-empty value at the pointers, as text.
    fn text<'a>(&self, object: &'a Value) -> Cow<'a, str> {
        let texts = self.pointers.iter().map(|pointer| match object.pointer(pointer) {
            None | Some(Value::Null) => Cow::Borrowed(""),
            Some(Value::String(text)) => Cow::Borrowed(text.as_str()),
            Some(other) => Cow::Owned(other.to_string()),
        });
        texts.into_iter().find(|t| !t.is_empty()).unwrap_or(Cow::Borrowed(self.absent))
    }
}

impl FieldSelector {
    /// Parses the value of a `fieldSelector` parameter and holds it against what the resource supports.
    ///
    /// # Errors
    /// If the text is malformed, or names a field that the resource does not support.
    pub fn parse(text: &str, supported: &SelectableFields) -> Result<Self, SelectorError> {
        let mut terms = Vec::new();
        for part in split_terms(text).into_iter().filter(|part| !part.is_empty()) {
            let (field, is_equal, value) = split_term(part)
                .ok_or_else(|| SelectorError::new(format!("invalid selector: '{text}'; can't understand '{part}'")))?;
            if supported.find(field).is_none() {
                return Err(SelectorError::new(format!("field label not supported: {field}")));
            }
            terms.push(Term { field: field.to_owned(), is_equal, value: unescape(value)? });
        }
        terms.sort();
        Ok(Self { terms })
    }

    /// Whether this selects everything.
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// The value that `field` must have, if the selector demands one: lets a store look an object up by name.
    pub fn required_value(&self, field: &str) -> Option<&str> {
        self.terms.iter().find(|t| t.is_equal && t.field == field).map(|t| t.value.as_str())
    }

    /// Whether `object` satisfies every term. A field that is absent counts as empty.
    pub fn matches(&self, object: &Value, supported: &SelectableFields) -> bool {
        self.terms.iter().all(|term| {
            let text = supported.find(&term.field).map(|field| field.text(object)).unwrap_or_default();
            (text == term.value) == term.is_equal
        })
    }
}

fn metadata_fields(is_namespaced: bool) -> Vec<Field> {
    let mut fields = vec![Field::of("metadata.name", &["/metadata/name"])];
    if is_namespaced {
        fields.push(Field::of("metadata.namespace", &["/metadata/namespace"]));
    }
    fields
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut is_escaped) = (0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            ',' => {
                terms.extend(text.get(start..index));
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.extend(text.get(start..));
    terms
}

/// Field, whether the operator is equality, and the escaped value.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (index, _) in term.char_indices() {
        let (field, rest) = term.split_at(index);
        for (operator, is_equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((field, is_equal, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = ['\\'].into_iter().chain(other).collect();
                    let message = format!("invalid field selector: invalid escape sequence: {sequence}");
                    return Err(SelectorError::new(message));
                }
            },
            ',' | '=' => {
                // The real server prints the code point, not the character.
                let message = format!("invalid field selector: unescaped character in value: {}", u32::from(c));
                return Err(SelectorError::new(message));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let operator = if term.is_equal { "=" } else { "!=" };
            let value = term.value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{}{operator}{value}", term.field)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn terms_match_fields_and_absent_fields_are_empty() {
        let event = json!({
            "metadata": {"name": "e", "namespace": "n"},
            "involvedObject": {"name": "vm", "kind": "VirtualMachine"}, "reason": "Started", "type": "Normal",
            "reportingComponent": "virt-handler",
        });
        let fields = SelectableFields::of_builtin(Builtin::Event);
        let table = [
            ("involvedObject.name=vm,involvedObject.kind==VirtualMachine", true),
            ("involvedObject.uid=", true),
            ("involvedObject.uid!=", false),
            ("reason!=Started", false),
            ("source=virt-handler", true),
            ("metadata.name=e,metadata.namespace=m", false),
            ("", true),
        ];
        for (text, expected) in table {
            assert_eq!(FieldSelector::parse(text, &fields).unwrap().matches(&event, &fields), expected, "{text}");
        }
    }

    #[test]
    fn an_absent_flag_is_false() {
        let fields = SelectableFields::of_builtin(Builtin::Node);
        let schedulable = FieldSelector::parse("spec.unschedulable=false", &fields).unwrap();
        assert!(schedulable.matches(&json!({"metadata": {"name": "n"}}), &fields));
        assert!(!schedulable.matches(&json!({"spec": {"unschedulable": true}}), &fields));
    }

    #[test]
    fn unsupported_and_malformed_terms_are_refused() {
        let fields = SelectableFields::of_builtin(Builtin::Node);
        let table = [
            ("spec.foo=1", "field label not supported: spec.foo"),
            ("metadata.namespace=a", "field label not supported: metadata.namespace"),
            ("metadata.name", "invalid selector: 'metadata.name'; can't understand 'metadata.name'"),
            ("metadata.name=a\\b", "invalid field selector: invalid escape sequence: \\b"),
            ("metadata.name=a=b", "invalid field selector: unescaped character in value: 61"),
        ];
        for (text, expected) in table {
            assert_eq!(FieldSelector::parse(text, &fields).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn a_required_name_is_known_to_the_caller() {
        let fields = SelectableFields::of_builtin(Builtin::Node);
        let selector = FieldSelector::parse("metadata.name=a", &fields).unwrap();
        assert_eq!(selector.required_value("metadata.name"), Some("a"));
        assert_eq!(FieldSelector::parse("metadata.name!=a", &fields).unwrap().required_value("metadata.name"), None);
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(values in prop::collection::vec(("[!-~]{0,6}", any::<bool>()), 0..4)) {
            let fields = SelectableFields::of_builtin(Builtin::Node);
            let terms = values.into_iter().map(|(value, is_equal)| Term { field: "metadata.name".into(), is_equal, value });
            let mut selector = FieldSelector { terms: terms.collect() };
            selector.terms.sort();
            // `a==b` is equality with an escaped value only when printed with one sign.
            prop_assert_eq!(FieldSelector::parse(&selector.to_string(), &fields).unwrap(), selector);
        }
    }
}
