//! `paths`: the operations of each resource, with the parameters that clients look for.

use serde_json::{Map, Value, json};

use super::components::reference;
use super::{GVK, REF_V2, REF_V3, ServedResource};

const JSON: &str = "application/json";

/// Where a path leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// All objects, of all namespaces.
    Everywhere,
    /// The collection that objects are created in.
    Collection,
    /// One object, or its status.
    Object,
    Status,
}

/// What an operation does, as its `x-kubernetes-action` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    List,
    Create,
    DeleteCollection,
    Get,
    Update,
    Patch,
    Delete,
}

impl Verb {
    fn method(self) -> &'static str {
        match self {
            Self::List | Self::Get => "get",
            Self::Create => "post",
            Self::Update => "put",
            Self::Patch => "patch",
            Self::DeleteCollection | Self::Delete => "delete",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Get => "get",
            Self::Create => "post",
            Self::Update => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    fn is_write(self) -> bool {
        matches!(self, Self::Create | Self::Update | Self::Patch)
    }
}

/// Adds the paths of `resource`.
pub(super) fn add(resource: &ServedResource<'_>, paths: &mut Map<String, Value>) {
    let base = format!("/{}", resource.group_version_path());
    let plural = resource.plural();
    let collection = if resource.is_namespaced() {
        paths.insert(format!("{base}/{plural}"), path_item(resource, Target::Everywhere));
        format!("{base}/namespaces/{{namespace}}/{plural}")
    } else {
        format!("{base}/{plural}")
    };
    paths.insert(format!("{collection}/{{name}}"), path_item(resource, Target::Object));
    if resource.has_status() {
        paths.insert(format!("{collection}/{{name}}/status"), path_item(resource, Target::Status));
    }
    paths.insert(collection, path_item(resource, Target::Collection));
}

/// Rewrites operations to the form of v2: body and answers have their schema in another place.
pub(super) fn to_v2(paths: &mut Value) {
    for item in paths.as_object_mut().into_iter().flat_map(Map::values_mut) {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            if method == "parameters" {
                simplify_parameters(operation);
                continue;
            }
            let Some(operation) = operation.as_object_mut() else { continue };
            let consumes: Vec<String> = operation
                .remove("requestBody")
                .and_then(|b| Some(b.get("content")?.as_object()?.keys().cloned().collect()))
                .unwrap_or_default();
            let parameters = operation.entry("parameters").or_insert_with(|| json!([]));
            simplify_parameters(parameters);
            if !consumes.is_empty() {
                if let Some(list) = parameters.as_array_mut() {
                    list.push(
                        json!({ "name": "body", "in": "body", "required": true, "schema": { "type": "object" } }),
                    );
                }
                operation.insert("consumes".to_owned(), json!(consumes));
            }
            operation.insert("produces".to_owned(), json!([JSON]));
            for answer in
                operation.get_mut("responses").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
            {
                let component = answer.pointer("/content/application~1json/schema/$ref").and_then(Value::as_str);
                let schema = component.map(|c| json!({ "$ref": c.replace(REF_V3, REF_V2) }));
                *answer = json!({ "description": "OK", "schema": schema.unwrap_or_else(|| json!({})) });
            }
        }
    }
}

/// In v2 the type stands in the parameter itself.
fn simplify_parameters(parameters: &mut Value) {
    for parameter in parameters.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(Value::Object(schema)) = parameter.remove("schema") {
            parameter.extend(schema);
        }
    }
}

fn path_item(resource: &ServedResource<'_>, target: Target) -> Value {
    let verbs: &[Verb] = match target {
        Target::Everywhere => &[Verb::List],
        Target::Collection => &[Verb::List, Verb::Create, Verb::DeleteCollection],
        Target::Object => &[Verb::Get, Verb::Update, Verb::Patch, Verb::Delete],
        Target::Status => &[Verb::Get, Verb::Update, Verb::Patch],
    };
    let mut item: Map<String, Value> =
        verbs.iter().map(|verb| (verb.method().to_owned(), operation(resource, target, *verb))).collect();
    let mut parameters = Vec::new();
    if resource.is_namespaced() && target != Target::Everywhere {
        parameters.push(path_parameter("namespace", "object name and auth scope, such as for teams and projects"));
    }
    if matches!(target, Target::Object | Target::Status) {
        parameters.push(path_parameter("name", &format!("name of the {}", resource.kind())));
    }
    item.insert("parameters".to_owned(), Value::Array(parameters));
    Value::Object(item)
}

fn operation(resource: &ServedResource<'_>, target: Target, verb: Verb) -> Value {
    let component = resource.component();
    let answer = if verb == Verb::List { format!("{component}List") } else { component.clone() };
    let mut operation = json!({
        "operationId": operation_id(resource, target, verb),
        "tags": [resource.group_version_path().replace("apis/", "").replace("api/", "core/").replace('/', "_")],
        "parameters": parameters(verb),
        "responses": {
            "200": { "description": "OK", "content": { JSON: { "schema": reference(&answer) } } },
            "401": { "description": "Unauthorized" },
        },
        "x-kubernetes-action": verb.action(),
        GVK: resource.gvk(),
    });
    if verb.is_write()
        && let Some(map) = operation.as_object_mut()
    {
        let content: Map<String, Value> = body_types(resource, verb)
            .iter()
            .map(|t| ((*t).to_owned(), json!({ "schema": body_schema(verb, &component) })))
            .collect();
        map.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
    }
    operation
}

fn body_schema(verb: Verb, component: &str) -> Value {
    if verb == Verb::Patch { json!({ "type": "object" }) } else { reference(component) }
}

fn body_types(resource: &ServedResource<'_>, verb: Verb) -> &'static [&'static str] {
    match (verb, resource) {
        (Verb::Patch, ServedResource::Builtin(_)) => {
            &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"]
        }
        (Verb::Patch, ServedResource::Custom { .. }) => {
            &["application/json-patch+json", "application/merge-patch+json"]
        }
        _ => &[JSON],
    }
}

fn parameters(verb: Verb) -> Vec<Value> {
    match verb {
        Verb::List => vec![
            query("labelSelector", "A selector to restrict the list of returned objects by their labels."),
            query("fieldSelector", "A selector to restrict the list of returned objects by their fields."),
            query("resourceVersion", "Which versions of the objects may be answered."),
            query("continue", "Where an earlier list of limited size left off."),
            typed_query("limit", "integer", "How many objects to answer at most."),
            typed_query("watch", "boolean", "Answer with a stream of changes."),
        ],
        Verb::Create | Verb::Update | Verb::Patch => vec![
            query("dryRun", "With `All`, nothing is stored."),
            query("fieldManager", "Name of the actor that makes the change."),
            query(
                "fieldValidation",
                "What to do with unknown or duplicate fields: `Ignore` drops them, `Warn` drops them with a warning, \
                 `Strict` refuses the request.",
            ),
        ],
        Verb::Delete | Verb::DeleteCollection => vec![
            query("dryRun", "With `All`, nothing is deleted."),
            typed_query("gracePeriodSeconds", "integer", "Seconds before the object is deleted."),
            query("propagationPolicy", "What becomes of dependents: `Orphan`, `Background` or `Foreground`."),
        ],
        Verb::Get => Vec::new(),
    }
}

fn query(name: &str, description: &str) -> Value {
    typed_query(name, "string", description)
}

fn typed_query(name: &str, kind: &str, description: &str) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": { "type": kind } })
}

fn path_parameter(name: &str, description: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "description": description, "schema": { "type": "string" } })
}

fn operation_id(resource: &ServedResource<'_>, target: Target, verb: Verb) -> String {
    let verb = match verb {
        Verb::List => "list",
        Verb::Create => "create",
        Verb::DeleteCollection => "deleteCollection",
        Verb::Get => "read",
        Verb::Update => "replace",
        Verb::Patch => "patch",
        Verb::Delete => "delete",
    };
    let scope = match target {
        Target::Everywhere => "",
        _ if resource.is_namespaced() => "Namespaced",
        _ => "",
    };
    let tail = match target {
        Target::Everywhere => "ForAllNamespaces",
        Target::Status => "Status",
        Target::Collection | Target::Object => "",
    };
    let group: String = resource.group_version_path().split(['/', '.', '-']).map(capitalized).collect();
    format!("{verb}{group}{scope}{}{tail}", resource.kind())
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
