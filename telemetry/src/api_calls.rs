//! A layer on kube's client: counts the calls to the API server, gives each a deadline, and says who calls.
//!
//! kube's own layers below it follow `Retry-After` of a 429, 503 or 504, and read the token and the CA of a pod anew once a minute.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, Uri, header};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tower::{BoxError, Layer, Service};

/// No answer within this time is none: a connection may be dead without anybody having said so. A watch has begun to answer long before.
const DEADLINE: Duration = Duration::from_secs(30);
/// Seconds: from what an idle server needs to our deadline.
const BUCKETS: [f64; 8] = [0.002, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 30.0];
/// Resources by name; all that our programs use. Anything else counts as `other`, so that nobody can make labels.
const RESOURCES: [&str; 17] = [
    "offlinevirtualmachines",
    "virtualmachines",
    "nodes",
    "leases",
    "pods",
    "events",
    "namespaces",
    "secrets",
    "configmaps",
    "services",
    "controllerrevisions",
    "customresourcedefinitions",
    "subjectaccessreviews",
    "tokenreviews",
    "validatingwebhookconfigurations",
    "apiservices",
    "deployments",
];

type Labels = [(&'static str, String); 3];

/// Counts calls to the API server. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct ApiCalls {
    calls: Family<Labels, Counter>,
    seconds: Family<[(&'static str, &'static str); 1], Histogram>,
}

/// A client's service, with its calls counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    calls: ApiCalls,
}

/// The API server did not answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer from the API server within {} s", DEADLINE.as_secs())]
struct NoAnswer;

impl Default for ApiCalls {
    fn default() -> Self {
        Self { calls: Family::default(), seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)) }
    }
}

impl ApiCalls {
    /// A client whose calls are counted here, and come from `program`, such as `ovm-controller/0.1.0`.
    ///
    /// # Errors
    /// If the configuration is of no use.
    pub fn client(&self, mut config: Config, program: &'static str) -> Result<Client, kube::Error> {
        config.headers.push((header::USER_AGENT, HeaderValue::from_static(program)));
        Ok(ClientBuilder::try_from(config)?.with_layer(self).build())
    }

    /// Names the metrics in a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("api_requests", "Calls to the API server, by verb, resource and code", self.calls.clone());
        registry.register(
            "api_request_duration_seconds",
            "Time until the API server began to answer, by verb",
            self.seconds.clone(),
        );
    }

    fn note(&self, verb: &'static str, resource: String, code: String, took: Duration) {
        self.calls.get_or_create(&[("verb", verb.to_owned()), ("resource", resource), ("code", code)]).inc();
        self.seconds.get_or_create(&[("verb", verb)]).observe(took.as_secs_f64());
    }
}

impl<S> Layer<S> for ApiCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, calls: self.clone() }
    }
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (verb, resource) = describe(request.method(), request.uri());
        let (calls, begun, answer) = (self.calls.clone(), Instant::now(), self.inner.call(request));
        Box::pin(async move {
            let answer = match tokio::time::timeout(DEADLINE, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(BoxError::from(NoAnswer)),
            };
            let code =
                answer.as_ref().map_or_else(|_| "none".to_owned(), |response| response.status().as_str().to_owned());
            calls.note(verb, resource, code, begun.elapsed());
            answer
        })
    }
}

/// Verb and resource of a call, in Kubernetes' words.
fn describe(method: &Method, uri: &Uri) -> (&'static str, String) {
    let mut parts = uri.path().trim_matches('/').split('/').skip_while(|part| *part != "api" && *part != "apis");
    let group_parts = if parts.next() == Some("api") { 1 } else { 2 };
    let mut parts: Vec<&str> = parts.skip(group_parts).collect();
    if parts.len() > 2 && parts.first() == Some(&"namespaces") && !["status", "finalize"].contains(&parts[2]) {
        parts.drain(..2);
    }
    let mut parts = parts.into_iter();
    let (resource, name, subresource) = (parts.next(), parts.next(), parts.next());
    let is_watch = uri.query().is_some_and(|query| query.split('&').any(|one| one == "watch=true" || one == "watch=1"));
    let verb = match *method {
        Method::GET if is_watch => "watch",
        Method::GET if name.is_none() => "list",
        Method::GET => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if name.is_none() => "deletecollection",
        Method::DELETE => "delete",
        _ => "other",
    };
    let Some(resource) = resource.and_then(|resource| RESOURCES.iter().find(|known| **known == resource)) else {
        return (verb, "other".to_owned());
    };
    match subresource {
        Some("status") => (verb, format!("{resource}/status")),
        _ => (verb, (*resource).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn calls_are_described_in_kubernetes_words_without_names_of_objects() {
        let cases = [
            ("GET", "/apis/kubevirt.io/v1alpha1/virtualmachines?", "list", "virtualmachines"),
            ("GET", "/apis/kubevirt.io/v1alpha1/virtualmachines?limit=5&watch=true&x=1", "watch", "virtualmachines"),
            ("GET", "/apis/kubevirt.io/v1alpha1/namespaces/a/virtualmachines/b", "get", "virtualmachines"),
            (
                "PUT",
                "/apis/kubevirt.io/v1alpha1/namespaces/a/virtualmachines/b/status",
                "update",
                "virtualmachines/status",
            ),
            ("GET", "/apis/kubevirt.io/v1alpha1/namespaces/nodes/virtualmachines", "list", "virtualmachines"),
            ("GET", "/api/v1/namespaces/kube-system", "get", "namespaces"),
            ("POST", "/api/v1/namespaces", "create", "namespaces"),
            ("POST", "/api/v1/namespaces/default/events", "create", "events"),
            ("PATCH", "/api/v1/nodes/a", "patch", "nodes"),
            ("GET", "/cluster/x/api/v1/nodes", "list", "nodes"),
            ("GET", "/api/v1", "list", "other"),
            ("GET", "/apis/example.com/v1/gadgets/secret-name", "get", "other"),
            ("GET", "/version", "list", "other"),
        ];
        for (method, uri, verb, resource) in cases {
            let described = describe(&method.parse().unwrap(), &uri.parse().unwrap());
            assert_eq!(described, (verb, resource.to_owned()), "{method} {uri}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn answers_are_counted_and_a_silent_server_is_an_error_in_the_end() {
        let calls = ApiCalls::default();
        let service = tower::service_fn(|request: Request<Body>| async move {
            if request.uri().path().ends_with("silent") {
                std::future::pending::<()>().await;
            }
            Ok::<_, BoxError>(Response::new(()))
        });
        let counted = calls.layer(service);
        let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
        counted.clone().oneshot(get("/api/v1/nodes/a")).await.unwrap();
        let error = counted.oneshot(get("/api/v1/nodes/silent")).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer from the API server within 30 s");

        let mut registry = Registry::with_prefix("test");
        calls.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(text.contains(r#"test_api_requests_total{verb="get",resource="nodes",code="200"} 1"#), "{text}");
        assert!(text.contains(r#"test_api_requests_total{verb="get",resource="nodes",code="none"} 1"#), "{text}");
    }
}
