//! What users may do who are no administrators.

use std::sync::Arc;

use apiserver::{AccessRules, ApiServer, User};
use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::harness::{Kubectl, Server, options};

/// A server whose group `readers` may read one ConfigMap.
async fn server(directory: &Arc<TempDir>) -> ApiServer {
    let mut options = options(directory);
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
    ApiServer::open(options).await.unwrap()
}

#[tokio::test]
async fn whoever_is_somebody_is_told_who_that_is_and_what_they_may() {
    let directory = Arc::new(TempDir::new().unwrap());
    let server = server(&directory).await;
    let reader = server.local_service(User::new("somebody", ["readers".to_owned()]));
    let ask = async |group: &str, kind: &str, spec: &Value| {
        let path = format!("/apis/{group}/v1/{}s", kind.to_lowercase());
        let body = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec}).to_string();
        let request = Request::post(&path).header("content-type", "application/json").body(Body::from(body)).unwrap();
        let answer = reader.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 201, "{path}");
        let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()["status"].clone()
    };
    let me = ask("authentication.k8s.io", "SelfSubjectReview", &json!({})).await;
    assert_eq!(me["userInfo"]["username"], "somebody");
    for (name, verb, allowed) in [("one", "get", true), ("one", "delete", false), ("two", "get", false)] {
        let asked = json!({"resource": "configmaps", "namespace": "default", "name": name, "verb": verb});
        let status =
            ask("authorization.k8s.io", "SelfSubjectAccessReview", &json!({"resourceAttributes": asked})).await;
        assert_eq!(status["allowed"], allowed, "{verb} {name}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_role_for_one_object_lets_it_be_listed_and_watched_by_its_name() {
    let directory = Arc::new(TempDir::new().unwrap());
    let server = server(&directory).await;
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

#[tokio::test]
async fn who_acts_as_somebody_else_has_that_ones_rights_only() {
    let server = Server::start().await;
    let send = async |method: &str, path: &str, body: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = server.send(request.body(Body::from(body.to_owned())).unwrap()).await;
        let code = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, serde_json::from_slice::<serde_json::Value>(&bytes).unwrap())
    };
    let nobody = [("Impersonate-User", "nobody")];
    let (code, status) = send("GET", "/api/v1/secrets", "", &nobody).await;
    assert_eq!(code, 403, "{status}");
    assert_eq!(
        status["message"],
        "secrets is forbidden: User \"nobody\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"
    );
    let review = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let (code, answer) = send("POST", path, review, &nobody).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["status"]["userInfo"], json!({"username": "nobody", "groups": ["system:authenticated"]}));
    let (code, status) = send("GET", "/api/v1/secrets", "", &[("Impersonate-Group", "nobodies")]).await;
    assert_eq!(code, 400, "{status}");
    let guest = server.api.local_service(User::new("guest", []));
    let request = Request::get("/version").header("Impersonate-User", "admin").body(Body::empty()).unwrap();
    assert_eq!(guest.oneshot(request).await.unwrap().status(), 403);
}

#[tokio::test]
async fn kubectl_acts_as_somebody_else() {
    if !Kubectl::is_installed("kubectl_acts_as_somebody_else") {
        return;
    }
    let server = Server::start().await;
    let kubectl = server.listen().await;
    assert!(kubectl.ok(&["auth", "whoami", "--as", "nobody", "--as-group", "few"]).await.contains("few"));
    let no = kubectl.run(&["auth", "can-i", "list", "secrets", "--as", "nobody"]).await;
    assert_eq!((no.ok, no.out.trim().starts_with("no")), (false, true), "{}{}", no.out, no.err);
    let refused = kubectl.fails(&["get", "secrets", "--as", "nobody"]).await;
    assert!(refused.contains("User \"nobody\" cannot list resource \"secrets\""), "{refused}");
    assert_eq!(
        kubectl.ok(&["auth", "can-i", "list", "secrets", "--as", "me", "--as-group", "system:masters"]).await,
        "yes\n"
    );
}
