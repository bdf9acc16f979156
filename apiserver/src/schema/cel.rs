//! `x-kubernetes-validations`: CEL rules, compiled once, run where they stand in the schema.
//!
//! <https://kubernetes.io/docs/reference/using-api/cel/>. The expressions are kube-cel's work; this module finds the nodes
//! that have rules, so that an object is converted to CEL values only there.

use cel::{CompiledSchema, ErrorKind, ValidationError, compile_schema};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::Value;

use super::SchemaError;
use super::cause;
use super::path::Path;
use crate::admission::Cause;

const RULES: &str = "x-kubernetes-validations";

/// All rules of a schema.
pub(crate) struct Rules {
    nodes: Vec<RuleNode>,
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").field("nodes", &self.nodes.len()).finish()
    }
}

struct RuleNode {
    /// The way from the root to the values this node describes.
    steps: Vec<Step>,
    compiled: CompiledSchema,
}

#[derive(Clone)]
enum Step {
    Property(String),
    /// Each value of a map that is not a listed property.
    Additional {
        listed: Vec<String>,
    },
    /// Each element of a list, and the keys that tell elements apart, if they are told apart by keys.
    Items {
        keys: Option<Vec<String>>,
    },
}

impl Rules {
    /// Compiles the rules below `schema`; nothing if there are none.
    ///
    /// # Errors
    /// If a rule, or its message expression, does not compile.
    pub(crate) fn compile(schema: &JSONSchemaProps) -> Result<Option<Self>, SchemaError> {
        let mut nodes = Vec::new();
        collect(schema, &mut Vec::new(), &mut nodes)?;
        Ok((!nodes.is_empty()).then_some(Self { nodes }))
    }

    /// One cause for each rule that `value` breaks. Rules over values that equal those of `old` are not run.
    pub(crate) fn validate(&self, value: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = Vec::new();
        for node in &self.nodes {
            node.walk(&node.steps, value, old, &mut Path::root(), &mut causes);
        }
        causes
    }
}

impl RuleNode {
    fn walk(&self, steps: &[Step], value: &Value, old: Option<&Value>, path: &mut Path, causes: &mut Vec<Cause>) {
        if old == Some(value) {
            return;
        }
        let Some((step, rest)) = steps.split_first() else {
            self.run(value, old, path, causes);
            return;
        };
        match step {
            Step::Property(name) => {
                if let Some(child) = value.get(name) {
                    let old = old.and_then(|o| o.get(name));
                    path.with_key(name, |path| self.walk(rest, child, old, path, causes));
                }
            }
            Step::Additional { listed } => {
                for (name, child) in value.as_object().into_iter().flatten().filter(|(name, _)| !listed.contains(name))
                {
                    let old = old.and_then(|o| o.get(name));
                    path.with_key(name, |path| self.walk(rest, child, old, path, causes));
                }
            }
            Step::Items { keys } => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    let old = old.zip(keys.as_ref()).and_then(|(old, keys)| same_element(item, old, keys));
                    path.with_index(index, |path| self.walk(rest, item, old, path, causes));
                }
            }
        }
    }

    fn run(&self, value: &Value, old: Option<&Value>, path: &Path, causes: &mut Vec<Cause>) {
        let Err(errors) = cel::validate_compiled(&self.compiled, value, old) else { return };
        causes.extend(errors.iter().map(|e| to_cause(e, value, path)));
    }
}

/// The element of `old` that has the keys of `item`.
fn same_element<'a>(item: &Value, old: &'a Value, keys: &[String]) -> Option<&'a Value> {
    old.as_array()?.iter().find(|other| keys.iter().all(|key| other.get(key) == item.get(key)))
}

fn to_cause(error: &ValidationError, value: &Value, path: &Path) -> Cause {
    let below = error.field_path.trim_start_matches('.');
    let field = match (path.as_str(), below) {
        ("", "") => "<nil>".to_owned(),
        ("", below) => below.to_owned(),
        (at, "") => at.to_owned(),
        (at, below) => format!("{at}.{below}"),
    };
    let detail = if error.kind == ErrorKind::ValidationFailure {
        error.message.trim().to_owned()
    } else {
        // A rule that cannot be evaluated refuses the object: a rule is a guard, and guards fail closed.
        format!("rule {:?}: {}", error.rule, error.message)
    };
    // The real server leaves objects and lists out of the message.
    let is_compound = value.is_object() || value.is_array();
    match error.reason.as_deref() {
        Some(cause::FORBIDDEN) => Cause::forbidden(field, &detail),
        Some(cause::REQUIRED) => Cause::required(field, &detail),
        Some(cause::DUPLICATE) if !is_compound => Cause::duplicate(field, value),
        Some(cause::DUPLICATE) => Cause::new(cause::DUPLICATE, "Duplicate value", field),
        _ if is_compound => Cause::new(cause::INVALID, format!("Invalid value: {detail}"), field),
        _ => Cause::invalid(field, value, &detail),
    }
}

fn collect(schema: &JSONSchemaProps, steps: &mut Vec<Step>, nodes: &mut Vec<RuleNode>) -> Result<(), SchemaError> {
    if schema.x_kubernetes_validations.as_ref().is_some_and(|rules| !rules.is_empty()) {
        nodes.push(RuleNode { steps: steps.clone(), compiled: compile_node(schema)? });
    }
    let mut descend = |schema: &JSONSchemaProps, step: Step| {
        steps.push(step);
        let result = collect(schema, steps, nodes);
        steps.pop();
        result
    };
    for (name, property) in schema.properties.iter().flatten() {
        descend(property, Step::Property(name.clone()))?;
    }
    if let Some(JSONSchemaPropsOrBool::Schema(additional)) = &schema.additional_properties {
        let listed = schema.properties.iter().flatten().map(|(name, _)| name.clone()).collect();
        descend(additional, Step::Additional { listed })?;
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        let keys = schema.x_kubernetes_list_map_keys.clone();
        descend(items, Step::Items { keys })?;
    }
    Ok(())
}

/// Compiles the rules that stand at `schema` itself. What lies below is kept for the types of its values only.
fn compile_node(schema: &JSONSchemaProps) -> Result<CompiledSchema, SchemaError> {
    let mut document = serde_json::to_value(schema).map_err(|e| SchemaError::Rule { message: e.to_string() })?;
    let own = document.get(RULES).cloned();
    strip(&mut document);
    if let (Some(map), Some(own)) = (document.as_object_mut(), own) {
        map.insert(RULES.to_owned(), own);
    }
    let compiled = compile_schema(&document);
    match compiled.compilation_errors().first() {
        Some(error) => Err(SchemaError::Rule { message: error.to_string() }),
        None => Ok(compiled),
    }
}

/// Removes rules, defaults (applied before) and texts at every level below `schema`.
fn strip(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for key in [RULES, "description", "default", "example", "title", "allOf", "anyOf", "oneOf", "not", "enum"] {
        map.remove(key);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(sub) = map.get_mut(key) {
            strip(sub);
        }
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(strip);
    }
}
