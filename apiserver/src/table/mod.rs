//! `meta.k8s.io/v1` Tables: what `kubectl get` prints.
//!
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables>.

mod age;
mod builtin;
mod json_path;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::schema::builtin::Builtin;
pub use age::human_duration;
use json_path::JsonPath;

/// What a row carries besides its cells (`includeObject` of the request).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    /// Cells only.
    None,
    /// PartialObjectMetadata; the default.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Parses the query parameter; empty means the default, and so does an unknown value.
    pub fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// The columns of one resource.
#[derive(Debug)]
pub struct TableColumns {
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: String,
    kind: String,
    format: String,
    description: String,
    priority: i32,
    cell: Cell,
}

/// Where a cell's value comes from.
#[derive(Debug)]
enum Cell {
    Path(JsonPath),
    /// As [`Cell::Path`], printed as the time since.
    Age(JsonPath),
    Computed(fn(&Value, Timestamp) -> Value),
}

impl TableColumns {
    /// Columns of a built-in kind.
    pub fn of_builtin(kind: Builtin) -> Self {
        Self { columns: builtin::columns(kind) }
    }

    /// Columns of version `version` of `crd`: Name, then its `additionalPrinterColumns`, or Age where it has none.
    /// A column whose path cannot be read prints empty cells.
    pub fn of_crd(crd: &CustomResourceDefinition, version: &str) -> Self {
        let version = crd.spec.versions.iter().find(|v| v.name == version);
        let defined = version.and_then(|v| v.additional_printer_columns.as_ref());
        let mut columns = vec![builtin::name_column()];
        match defined.filter(|columns| !columns.is_empty()) {
            None => columns.push(builtin::age_column()),
            Some(defined) => columns.extend(defined.iter().map(|c| {
                let path = JsonPath::parse(&c.json_path).unwrap_or_default();
                Column {
                    name: c.name.clone(),
                    kind: c.type_.clone(),
                    format: c.format.clone().unwrap_or_default(),
                    description: c.description.clone().filter(|d| !d.is_empty()).unwrap_or_else(|| {
                        format!("Custom resource definition column (in JSONPath format): {}", c.json_path)
                    }),
                    priority: c.priority.unwrap_or(0),
                    cell: if c.type_ == "date" { Cell::Age(path) } else { Cell::Path(path) },
                }
            })),
        }
        Self { columns }
    }

    /// A Table of `items`. `list_metadata` is the `metadata` of the list (resourceVersion, continue), or of the object for
    /// a single one. `with_headers` is false for all but the first event of a watch. `now` is what ages are counted to.
    pub fn render<'a>(
        &self,
        items: impl IntoIterator<Item = &'a Value>,
        list_metadata: &Value,
        include: IncludeObject,
        with_headers: bool,
        now: Timestamp,
    ) -> Value {
        let rows: Vec<Value> = items.into_iter().map(|item| self.row(item, include, now)).collect();
        let headers = if with_headers { self.headers() } else { Value::Array(Vec::new()) };
        json!({
            "kind": "Table",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": list_metadata,
            "columnDefinitions": headers,
            "rows": rows,
        })
    }

    fn headers(&self) -> Value {
        let header = |c: &Column| {
            json!({
                "name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority,
            })
        };
        self.columns.iter().map(header).collect()
    }

    fn row(&self, item: &Value, include: IncludeObject, now: Timestamp) -> Value {
        let cells: Vec<Value> = self.columns.iter().map(|c| c.cell(item, now)).collect();
        let mut row = json!({ "cells": cells });
        let object = match include {
            IncludeObject::None => None,
            IncludeObject::Object => Some(item.clone()),
            IncludeObject::Metadata => Some(json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": item.get("metadata").cloned().unwrap_or_default(),
            })),
        };
        if let (Some(object), Some(row)) = (object, row.as_object_mut()) {
            row.insert("object".to_owned(), object);
        }
        row
    }
}

impl Column {
    fn cell(&self, item: &Value, now: Timestamp) -> Value {
        match &self.cell {
            Cell::Computed(f) => f(item, now),
            Cell::Age(path) => path.first(item).map_or(Value::Null, |found| Value::from(age::since(found, now))),
            Cell::Path(path) => path.cell(item, &self.kind),
        }
    }
}

#[cfg(test)]
mod tests;
