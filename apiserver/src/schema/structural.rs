//! The compact form of a structural schema: what is needed to prune, default and validate, and nothing else.
//!
//! A CRD document of 100 kB is mostly descriptions; this form keeps none, so that it can stay in memory for each served
//! version. Descriptions are read again from the CRD when OpenAPI is asked for.
//! Rules: <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::Regex;
use serde_json::Value;

use super::SchemaError;
use super::formats::Format;

/// Deeper schemas are refused: compilation and every walk recurse.
const MAX_DEPTH: usize = 100;

/// JSON type that a schema asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// `x-kubernetes-int-or-string`.
    IntOrString,
}

impl Type {
    /// The name as errors print it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer,string",
        }
    }
}

/// What `x-kubernetes-list-type` says.
#[derive(Debug, Clone)]
pub(crate) enum ListType {
    Atomic,
    Set,
    Map { keys: Box<[Box<str>]> },
}

/// What is said about properties that are not listed.
#[derive(Debug, Clone)]
pub(crate) enum Additional {
    /// Nothing: pruned.
    Unlisted,
    /// `additionalProperties: true`.
    Any,
    /// `additionalProperties: false`.
    Denied,
    /// `additionalProperties: {schema}`.
    Of(Box<Node>),
}

/// One node of the schema tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) kind: Option<Type>,
    pub(crate) nullable: bool,
    pub(crate) preserve_unknown: bool,
    pub(crate) embedded: bool,
    /// Sorted by name.
    pub(crate) properties: Box<[(Box<str>, Node)]>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Node>>,
    pub(crate) default: Option<Box<Value>>,
    pub(crate) list_type: ListType,
    /// Absent in most nodes.
    pub(crate) checks: Option<Box<Checks>>,
}

/// Value validations of a node.
#[derive(Debug, Clone, Default)]
pub(crate) struct Checks {
    pub(crate) required: Box<[Box<str>]>,
    pub(crate) allowed: Box<[Value]>,
    pub(crate) format: Option<Format>,
    pub(crate) pattern: Option<Regex>,
    pub(crate) min_length: Option<i64>,
    pub(crate) max_length: Option<i64>,
    pub(crate) min_items: Option<i64>,
    pub(crate) max_items: Option<i64>,
    pub(crate) unique_items: bool,
    pub(crate) min_properties: Option<i64>,
    pub(crate) max_properties: Option<i64>,
    pub(crate) minimum: Option<(f64, Exclusive)>,
    pub(crate) maximum: Option<(f64, Exclusive)>,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) all_of: Box<[Node]>,
    pub(crate) any_of: Box<[Node]>,
    pub(crate) one_of: Box<[Node]>,
    pub(crate) not: Option<Box<Node>>,
}

/// Whether a bound itself is outside the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exclusive(pub(crate) bool);

impl Node {
    /// Compiles `schema`; `path` names it in errors.
    pub(crate) fn compile(schema: &JSONSchemaProps, path: &str) -> Result<Self, SchemaError> {
        compile_at(schema, path, 0)
    }

    /// The schema of property `name`, listed or additional.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        self.property(name).or(match &self.additional {
            Additional::Of(node) => Some(node),
            _ => None,
        })
    }

    /// The schema of the listed property `name`.
    pub(crate) fn property(&self, name: &str) -> Option<&Node> {
        let index = self.properties.binary_search_by(|(key, _)| key.as_ref().cmp(name)).ok()?;
        self.properties.get(index).map(|(_, node)| node)
    }
}

fn compile_at(schema: &JSONSchemaProps, path: &str, depth: usize) -> Result<Node, SchemaError> {
    if depth > MAX_DEPTH {
        return Err(SchemaError::TooDeep { path: path.to_owned() });
    }
    let child = |schema: &JSONSchemaProps, name: &str| compile_at(schema, &format!("{path}.{name}"), depth + 1);
    let mut properties = Vec::new();
    for (name, property) in schema.properties.iter().flatten() {
        properties.push((name.clone().into_boxed_str(), child(property, name)?));
    }
    properties.sort_by(|(a, _), (b, _)| a.cmp(b));
    let additional = match &schema.additional_properties {
        None => Additional::Unlisted,
        Some(JSONSchemaPropsOrBool::Bool(true)) => Additional::Any,
        Some(JSONSchemaPropsOrBool::Bool(false)) => Additional::Denied,
        Some(JSONSchemaPropsOrBool::Schema(schema)) => Additional::Of(Box::new(child(schema, "*")?)),
    };
    let items = match &schema.items {
        None => None,
        Some(JSONSchemaPropsOrArray::Schema(schema)) => Some(Box::new(child(schema, "[]")?)),
        Some(JSONSchemaPropsOrArray::Schemas(_)) => {
            return Err(SchemaError::NotStructural { path: path.to_owned(), what: "items must be one schema" });
        }
    };
    let list_type = match schema.x_kubernetes_list_type.as_deref() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map {
            keys: schema.x_kubernetes_list_map_keys.iter().flatten().map(|k| k.as_str().into()).collect(),
        },
        _ => ListType::Atomic,
    };
    Ok(Node {
        kind: type_of(schema, path)?,
        nullable: schema.nullable.unwrap_or(false),
        preserve_unknown: schema.x_kubernetes_preserve_unknown_fields.unwrap_or(false),
        embedded: schema.x_kubernetes_embedded_resource.unwrap_or(false),
        properties: properties.into_boxed_slice(),
        additional,
        items,
        default: schema.default.as_ref().map(|d| Box::new(d.0.clone())),
        list_type,
        checks: compile_checks(schema, path, depth)?,
    })
}

fn type_of(schema: &JSONSchemaProps, path: &str) -> Result<Option<Type>, SchemaError> {
    if schema.x_kubernetes_int_or_string == Some(true) {
        return Ok(Some(Type::IntOrString));
    }
    Ok(Some(match schema.type_.as_deref() {
        None | Some("") => return Ok(None),
        Some("object") => Type::Object,
        Some("array") => Type::Array,
        Some("string") => Type::String,
        Some("integer") => Type::Integer,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some(other) => {
            return Err(SchemaError::UnknownType { path: path.to_owned(), name: other.to_owned() });
        }
    }))
}

fn compile_checks(schema: &JSONSchemaProps, path: &str, depth: usize) -> Result<Option<Box<Checks>>, SchemaError> {
    let junctor = |list: &Option<Vec<JSONSchemaProps>>| -> Result<Box<[Node]>, SchemaError> {
        list.iter().flatten().map(|s| compile_at(s, path, depth + 1)).collect()
    };
    let pattern = match schema.pattern.as_deref() {
        None | Some("") => None,
        Some(text) => Some(
            Regex::new(text)
                .map_err(|source| SchemaError::Pattern { path: path.to_owned(), source: Box::new(source) })?,
        ),
    };
    let bound = |value: Option<f64>, exclusive: Option<bool>| Some((value?, Exclusive(exclusive.unwrap_or(false))));
    let checks = Checks {
        required: schema.required.iter().flatten().map(|r| r.as_str().into()).collect(),
        allowed: schema.enum_.iter().flatten().map(|v| v.0.clone()).collect(),
        format: Format::parse(schema.type_.as_deref(), schema.format.as_deref()),
        pattern,
        min_length: schema.min_length,
        max_length: schema.max_length,
        min_items: schema.min_items,
        max_items: schema.max_items,
        unique_items: schema.unique_items.unwrap_or(false),
        min_properties: schema.min_properties,
        max_properties: schema.max_properties,
        minimum: bound(schema.minimum, schema.exclusive_minimum),
        maximum: bound(schema.maximum, schema.exclusive_maximum),
        multiple_of: schema.multiple_of,
        all_of: junctor(&schema.all_of)?,
        any_of: junctor(&schema.any_of)?,
        one_of: junctor(&schema.one_of)?,
        not: schema.not.as_ref().map(|s| compile_at(s, path, depth + 1)).transpose()?.map(Box::new),
    };
    Ok((!checks.is_empty()).then(|| Box::new(checks)))
}

impl Checks {
    fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.allowed.is_empty()
            && self.format.is_none()
            && self.pattern.is_none()
            && [self.min_length, self.max_length, self.min_items, self.max_items].iter().all(Option::is_none)
            && [self.min_properties, self.max_properties].iter().all(Option::is_none)
            && !self.unique_items
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.multiple_of.is_none()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}
