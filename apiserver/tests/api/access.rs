//! What users may do who are no administrators.

use std::sync::Arc;

use apiserver::{AccessRules, ApiServer, User};
use axum::body::Body;
use http::Request;
use serde_json::json;
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::harness::options;

#[tokio::test]
async fn a_role_for_one_object_lets_it_be_listed_and_watched_by_its_name() {
    let directory = Arc::new(TempDir::new().unwrap());
    let mut options = options(&directory);
    let metadata = json!({"name": "r", "namespace": "default"});
    options.access = AccessRules::from_documents(&[
        json!({"kind": "Role", "metadata": metadata, "rules": [
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["one"], "verbs": ["get", "list", "watch"]},
        ]}),
        json!({"kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
            "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "readers"}]}),
    ])
    .unwrap();
    let server = ApiServer::open(options).await.unwrap();
    let reader = server.local_service(User::new("somebody", ["readers".to_owned()]));
    for (query, code) in [
        // It is not there.
        ("/one", 404),
        ("/two", 403),
        ("", 403),
        ("?fieldSelector=metadata.name%3Done", 200),
        ("?watch=1&timeoutSeconds=1&fieldSelector=metadata.name%3Done", 200),
        ("?fieldSelector=metadata.name%3Dtwo", 403),
        ("?fieldSelector=metadata.name!%3Done", 403),
        ("?fieldSelector=metadata.namespace%3Done", 403),
    ] {
        let path = format!("/api/v1/namespaces/default/configmaps{query}");
        let request = Request::get(&path).body(Body::empty()).unwrap();
        let answer = reader.clone().oneshot(request).await.unwrap().status().as_u16();
        assert_eq!(answer, code, "{path}");
    }
    server.shutdown().await;
}
