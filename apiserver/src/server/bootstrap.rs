//! What a server needs before it answers: namespaces, definitions. Made at first start, brought up to date at each.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::json;

use super::StartError;
use crate::object::{Object, timestamp};
use crate::registry::{self, Registry};
use crate::schema::builtin::Builtin;
use crate::store::{Key, Mutation, Store};
use crate::verbs::parse_stored;

/// Namespaces of a fresh installation. The UID of `kube-system` names it.
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease", "kubevirt-system"];

/// Where namespaces are filed.
const NAMESPACE_STORAGE: &str = "namespaces";

/// Where definitions are filed.
const DEFINITION_STORAGE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// By which clients that do not know this server yet get to know it.
pub(super) const CLUSTER_INFO_NAMESPACE: &str = "kube-public";
pub(super) const CLUSTER_INFO: &str = "cluster-info";

/// Says address and authority in ConfigMap `kube-public/cluster-info`, as kubeadm does.
pub(super) async fn put_cluster_info(store: &Store, url: &str, authority_pem: &str) -> Result<(), StartError> {
    let authority = STANDARD.encode(authority_pem);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: {url}\n    certificate-authority-data: {authority}\n"
    );
    let (namespace, name) = (CLUSTER_INFO_NAMESPACE.to_owned(), CLUSTER_INFO.to_owned());
    let key = Key { resource: "configmaps".into(), namespace, name };
    let data = json!({"kubeconfig": kubeconfig});
    let mutation = if let Some(stored) = store.get(&key).await.map_err(StartError::store)? {
        let old = parse_stored(&key, &stored).map_err(StartError::store)?;
        let mut object = old.clone();
        object.root_mut().insert("data".to_owned(), data);
        let version = stored.version;
        (object != old).then(|| Mutation::Update { key, version, object, before: None, expires: None })
    } else {
        let mut value = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {"name": CLUSTER_INFO, "namespace": CLUSTER_INFO_NAMESPACE},
        });
        stamp(&mut value);
        Object::new(value).map(|object| Mutation::Create { key, object, expires: None })
    };
    match mutation {
        Some(mutation) => store.write(vec![mutation]).await.map(drop).map_err(StartError::bootstrap),
        None => Ok(()),
    }
}

/// Makes what is missing, in one transaction, and returns what is served.
pub(super) async fn bootstrap(
    store: &Store,
    custom_resources: &[CustomResourceDefinition],
) -> Result<Registry, StartError> {
    let mut mutations = missing_namespaces(store).await?;
    let mut registry = Registry::builtin();
    serve_stored(store, custom_resources, &mut registry).await?;
    for crd in custom_resources {
        mutations.extend(put_definition(store, crd, &mut registry).await?);
    }
    if !mutations.is_empty() {
        store.write(mutations).await.map_err(StartError::bootstrap)?;
    }
    Ok(registry)
}

async fn missing_namespaces(store: &Store) -> Result<Vec<Mutation>, StartError> {
    let mut mutations = Vec::new();
    for name in NAMESPACES {
        let key = Key { resource: NAMESPACE_STORAGE.into(), namespace: String::new(), name: (*name).to_owned() };
        if store.get(&key).await.map_err(StartError::store)?.is_some() {
            continue;
        }
        let mut value = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        stamp(&mut value);
        if let Some(object) = Object::new(value) {
            mutations.push(Mutation::Create { key, object, expires: None });
        }
    }
    Ok(mutations)
}

/// UID and creation time of an object that the server makes itself.
fn stamp(value: &mut serde_json::Value) {
    value["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
    value["metadata"]["creationTimestamp"] = json!(timestamp(jiff::Timestamp::now()));
}

/// Serves definitions that were created at run time.
async fn serve_stored(
    store: &Store,
    custom_resources: &[CustomResourceDefinition],
    registry: &mut Registry,
) -> Result<(), StartError> {
    let given: HashSet<&str> = custom_resources.iter().filter_map(|crd| crd.metadata.name.as_deref()).collect();
    for json in store.list(DEFINITION_STORAGE, None).await.map_err(StartError::store)?.items {
        let Ok(mut object) = Object::parse(&json) else { continue };
        if given.contains(object.name()) {
            continue;
        }
        match registry::settle(&mut object, jiff::Timestamp::now()) {
            Ok(definition) => registry.serve(definition),
            // Its objects stay in the store; refusing to start would take all others down with them.
            Err(error) => tracing::warn!(name = object.name(), %error, "cannot serve a stored definition"),
        }
    }
    Ok(())
}

/// Serves a given definition; the mutation that stores it, if the store does not have it like this.
async fn put_definition(
    store: &Store,
    crd: &CustomResourceDefinition,
    registry: &mut Registry,
) -> Result<Option<Mutation>, StartError> {
    let name = crd.metadata.name.clone().unwrap_or_default();
    let encode = |source| StartError::EncodeDefinition { name: name.clone(), source };
    let mut value = serde_json::to_value(crd).map_err(encode)?;
    Builtin::CustomResourceDefinition.admit(&mut value).map_err(|error| StartError::EncodeDefinition {
        name: name.clone(),
        source: serde::de::Error::custom(error),
    })?;
    let key = Key { resource: DEFINITION_STORAGE.into(), namespace: String::new(), name: name.clone() };
    let stored = store.get(&key).await.map_err(StartError::store)?;
    let mutation = if let Some(stored) = stored {
        let old = parse_stored(&key, &stored).map_err(StartError::store)?;
        let mut new = old.clone();
        new.root_mut().insert("spec".to_owned(), value["spec"].clone());
        if new != old {
            new.metadata_mut().insert("generation".to_owned(), json!(old.generation() + 1));
        }
        let definition = registry::settle(&mut new, jiff::Timestamp::now())?;
        registry.serve(definition);
        let version = stored.version;
        (new != old).then(|| Mutation::Update { key, version, object: new, before: None, expires: None })
    } else {
        stamp(&mut value);
        value["metadata"]["generation"] = json!(1);
        let mut object = Object::new(value).ok_or_else(|| encode(serde::de::Error::custom("no JSON object")))?;
        let definition = registry::settle(&mut object, jiff::Timestamp::now())?;
        registry.serve(definition);
        Some(Mutation::Create { key, object, expires: None })
    };
    Ok(mutation)
}
