//! A server in a directory of its own, and ways to talk to it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use apiserver::{Admission, AdmissionRequest, ApiServer, Cause, Endpoint, Options, User};
use axum::body::Body;
use futures::StreamExt;
use http::{Method, Request, header};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

/// How long anything may take that is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Path of the test resource in namespace `default`.
pub(crate) const WIDGETS: &str = "/apis/test.io/v1/namespaces/default/widgets";

/// A running server.
pub(crate) struct Server {
    pub(crate) api: ApiServer,
    pub(crate) directory: Arc<TempDir>,
}

/// Refuses widgets of size 13, which no schema would.
struct NoThirteen;

impl Admission for NoThirteen {
    fn validate(&self, request: &AdmissionRequest<'_>) -> Vec<Cause> {
        if request.kind == "Widget" && request.object["spec"]["size"] == 13 {
            return vec![Cause::new("FieldValueInvalid", "spec.size must not be unlucky.", "spec.size")];
        }
        Vec::new()
    }
}

/// The test resource's definition.
pub(crate) fn definition() -> CustomResourceDefinition {
    serde_json::from_value(json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.test.io"},
        "spec": {
            "group": "test.io", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
                    {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
                ],
                "selectableFields": [{"jsonPath": ".status.phase"}],
                "schema": {"openAPIV3Schema": {
                    "type": "object", "required": ["spec"], "description": "A thing for tests.",
                    "properties": {
                        "spec": {
                            "type": "object", "required": ["size"],
                            "properties": {
                                "size": {"type": "integer", "minimum": 1, "description": "How large it is."},
                                "color": {"type": "string", "default": "red"},
                                "parts": {"type": "array", "items": {"type": "string"}},
                            },
                        },
                        "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
                    },
                }},
            }],
        },
    }))
    .unwrap()
}

/// A widget.
pub(crate) fn widget(name: &str, size: i64) -> Value {
    json!({"apiVersion": "test.io/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": size}})
}

/// Settings for a directory.
pub(crate) fn options(directory: &TempDir) -> Options {
    let mut options = Options::new(directory.path().join("data"), ([127, 0, 0, 1], 0).into());
    options.custom_resources.push(definition());
    options.admission = Arc::new(NoThirteen);
    options
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap())).await
    }

    /// Starts on what an earlier server has left.
    pub(crate) async fn start_in(directory: Arc<TempDir>) -> Self {
        let api = ApiServer::open(options(&directory)).await.unwrap();
        Self { api, directory }
    }

    pub(crate) async fn listen(&self) -> Kubectl {
        let endpoint = self.api.listen().await.unwrap();
        Kubectl { endpoint }
    }

    pub(crate) fn client(&self) -> kube::Client {
        kube::Client::new(self.api.local_service(User::system("test")), "default")
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        self.api.local_service(User::system("test")).oneshot(request).await.unwrap()
    }

    /// A request with a JSON body; its status code and JSON answer.
    pub(crate) async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        self.call_as(method, path, "application/json", body).await
    }

    pub(crate) async fn call_as(&self, method: Method, path: &str, media_type: &str, body: &Value) -> (u16, Value) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, media_type)
            .body(Body::from(text))
            .unwrap();
        let response = self.send(request).await;
        let code = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (code, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.call(Method::GET, path, &Value::Null).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call(Method::POST, path, body).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.call(Method::PUT, path, body).await
    }

    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> (u16, Value) {
        self.call_as(Method::PATCH, path, "application/merge-patch+json", patch).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> (u16, Value) {
        self.call(Method::DELETE, path, options).await
    }

    /// Creates an object that must be accepted.
    pub(crate) async fn create(&self, path: &str, body: &Value) -> Value {
        let (code, object) = self.post(path, body).await;
        assert_eq!(code, 201, "{object}");
        object
    }

    /// Waits until a GET answers 404.
    pub(crate) async fn wait_gone(&self, path: &str) {
        let deadline = Instant::now() + DEADLINE;
        while self.get(path).await.0 != 404 {
            assert!(Instant::now() < deadline, "{path} is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Opens a watch.
    pub(crate) async fn watch(&self, path_and_query: &str) -> Watch {
        let request = Request::get(path_and_query).body(Body::empty()).unwrap();
        let response = self.send(request).await;
        assert_eq!(response.status(), 200, "{path_and_query}");
        Watch { body: Box::pin(response.into_body().into_data_stream()), buffer: Vec::new() }
    }
}

/// An open watch.
pub(crate) struct Watch {
    body: std::pin::Pin<Box<axum::body::BodyDataStream>>,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event as (type, object); `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).unwrap();
                return Some((event["type"].as_str().unwrap().to_owned(), event["object"].clone()));
            }
            let chunk = tokio::time::timeout(DEADLINE, self.body.next()).await.expect("an event in time")?;
            self.buffer.extend_from_slice(&chunk.unwrap());
        }
    }

    /// The next event as `TYPE name`.
    pub(crate) async fn next_line(&mut self) -> String {
        let (kind, object) = self.next().await.expect("the watch has not ended");
        format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or_default())
    }
}

/// kubectl with the administrator's kubeconfig.
pub(crate) struct Kubectl {
    pub(crate) endpoint: Endpoint,
}

/// What kubectl printed, and whether it succeeded.
pub(crate) struct Printed {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Kubectl {
    /// Whether there is a kubectl; says so loudly if not.
    pub(crate) fn is_installed(test: &str) -> bool {
        let found = Command::new("kubectl").arg("version").arg("--client").output().is_ok();
        if !found {
            eprintln!("SKIPPED {test}: kubectl is not installed");
        }
        found
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", &self.endpoint.kubeconfig)
            // Discovery caches of one test must not leak into another's server on the same port.
            .arg("--cache-dir")
            .arg(self.endpoint.kubeconfig.with_file_name("kubectl-cache"));
        command
    }

    /// Runs kubectl with a text on its standard input.
    pub(crate) async fn run_with(&self, arguments: &[&str], input: &str) -> Printed {
        let mut command = self.command(arguments);
        let input = input.to_owned();
        let run = move || {
            let mut child =
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        Printed {
            ok: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Printed {
        self.run_with(arguments, "").await
    }

    /// Runs kubectl, which must succeed; what it printed.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments).await;
        assert!(printed.ok, "kubectl {arguments:?}: {}{}", printed.out, printed.err);
        printed.out
    }

    /// Runs kubectl, which must fail; what it complained about.
    pub(crate) async fn fails(&self, arguments: &[&str]) -> String {
        let printed = self.run(arguments).await;
        assert!(!printed.ok, "kubectl {arguments:?} should fail, printed {}", printed.out);
        printed.err
    }
}
