//! From a request to the code that answers it.

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response};
use tower::ServiceExt;

use super::Core;
use super::bootstrap::{CLUSTER_INFO, CLUSTER_INFO_NAMESPACE};
use crate::access::Wish;
use crate::auth::{User, acting_user};
use crate::discovery;
use crate::http::query::Query;
use crate::http::route::{Route, Target};
use crate::http::{accept, body, render, respond};
use crate::registry::{Behavior, Resource, Verbs};
use crate::selector::FieldSelector;
use crate::status::ApiError;
use crate::verbs::{self, Call, Part, Reply};
use crate::watch;

impl Core {
    /// Answers one request, which carries its authenticated user as an extension.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let result = answer(&self, request).await;
        result.unwrap_or_else(|error| error.to_response())
    }
}

async fn answer(core: &Arc<Core>, mut request: Request<Body>) -> Result<Response<Body>, ApiError> {
    let user = request.extensions().get::<User>().cloned().ok_or_else(ApiError::unauthorized)?;
    let user = acting_user(user, request.headers_mut())?;
    request.extensions_mut().insert(user.clone());
    let path = request.uri().path();
    if !user.is_master() {
        authorize(core, &user, &request)?;
    }
    let mounts = core.mounts();
    let mounted = mounts
        .iter()
        .find(|mount| path.strip_prefix(&mount.prefix()).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/')));
    if let Some(mount) = mounted {
        let router = mount.router.clone();
        return router.oneshot(request).await.map_err(|never| match never {});
    }
    let route = Route::parse(path).ok_or_else(ApiError::no_such_resource)?;
    if let Route::Resource(target) = route {
        return resource(core, &user, target, request).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let query = Query::parse(request.uri())?;
    document(core, &route, &query, request.headers()).await
}

/// Whether somebody who is no administrator may.
fn authorize(core: &Core, user: &User, request: &Request<Body>) -> Result<(), ApiError> {
    let path = request.uri().path();
    let route = Route::parse(path).ok_or_else(ApiError::no_such_resource)?;
    let Route::Resource(target) = route else {
        // What there is to be asked for is no secret to whoever is somebody.
        return if user.is_anonymous() { Err(ApiError::unauthorized()) } else { Ok(()) };
    };
    let query = Query::parse(request.uri())?;
    let is_watch = request.method() == Method::GET && query.watch;
    let verb = match (request.method().as_str(), target.name.is_some()) {
        ("GET" | "HEAD", _) if is_watch => "watch",
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => return Err(ApiError::method_not_allowed()),
    };
    let selected = if matches!(verb, "list" | "watch") { selected_name(core, &target, &query) } else { None };
    let wish = Wish {
        verb,
        group: &target.group,
        resource: &target.plural,
        subresource: target.subresource.as_deref(),
        namespace: target.namespace.as_deref(),
        name: target.name.as_deref().or(selected.as_deref()),
    };
    let is_open = is_cluster_info(&wish) || (!user.is_anonymous() && is_self_review(&wish));
    if is_open || core.access.allows(user, &wish) {
        return Ok(());
    }
    if user.is_anonymous() {
        return Err(ApiError::unauthorized());
    }
    let name = target.name.as_deref().unwrap_or_default();
    let resource =
        target.subresource.as_ref().map_or_else(|| target.plural.clone(), |sub| format!("{}/{sub}", target.plural));
    let scope = target
        .namespace
        .as_ref()
        .map_or_else(|| "at the cluster scope".to_owned(), |namespace| format!("in the namespace {namespace:?}"));
    let why =
        format!("User {:?} cannot {verb} resource {resource:?} in API group {:?} {scope}", user.name, target.group);
    Err(ApiError::forbidden(&target.group, &target.plural, name, &why))
}

/// The one name that a list or a watch selects: it counts as that of the request, so that roles for single objects let them be watched.
/// <https://github.com/kubernetes/apiserver/blob/v0.36.0/pkg/endpoints/request/requestinfo.go>
fn selected_name(core: &Core, target: &Target, query: &Query) -> Option<String> {
    let registry = core.registry();
    let resource = registry.find(&target.group, &target.version, &target.plural)?;
    let selector = FieldSelector::parse(&query.field_selector, &resource.fields).ok()?;
    selector.required_value("metadata.name").map(str::to_owned)
}

/// By which clients that do not know this server yet get to know it: readable by everybody, as kubeadm has it.
fn is_cluster_info(wish: &Wish<'_>) -> bool {
    wish.verb == "get"
        && (wish.group, wish.resource, wish.subresource) == ("", "configmaps", None)
        && (wish.namespace, wish.name) == (Some(CLUSTER_INFO_NAMESPACE), Some(CLUSTER_INFO))
}

/// Whoever is somebody may ask who that is, and what that one may.
fn is_self_review(wish: &Wish<'_>) -> bool {
    wish.verb == "create"
        && wish.subresource.is_none()
        && verbs::review::SELF_REVIEWS.contains(&(wish.group, wish.resource))
}

/// Paths that describe the server itself.
async fn document(
    core: &Arc<Core>,
    route: &Route,
    query: &Query,
    headers: &HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let registry = core.registry();
    let mounts = core.mounts();
    let aggregated = accept::wants_aggregated_discovery(headers);
    match route {
        Route::Health => Ok(Response::new(Body::from("ok"))),
        Route::Version => Ok(respond::ok(&discovery::version())),
        Route::CoreVersions if aggregated => Ok(discovery::aggregated_response(&registry, &mounts, true)),
        Route::Groups if aggregated => Ok(discovery::aggregated_response(&registry, &mounts, false)),
        Route::CoreVersions => Ok(respond::ok(&discovery::core_versions())),
        Route::Groups => Ok(respond::ok(&discovery::groups(&registry, &mounts))),
        Route::Group { group } => discovery::group(&registry, &mounts, group)
            .map(|value| respond::ok(&value))
            .ok_or_else(ApiError::no_such_resource),
        Route::Resources { group, version } => discovery::resources(&registry, &mounts, group, version)
            .map(|value| respond::ok(&value))
            .ok_or_else(ApiError::no_such_resource),
        Route::OpenApiV2 => discovery::openapi_v2(core, headers).await,
        Route::OpenApiV3 { path } => discovery::openapi_v3(core, path.as_deref(), query.openapi_hash.as_deref()).await,
        Route::Resource(_) => Err(ApiError::no_such_resource()),
    }
}

/// A resource, an object, or a subresource.
async fn resource(
    core: &Arc<Core>,
    user: &User,
    target: Target,
    request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let registry = core.registry();
    let resource = registry
        .find(&target.group, &target.version, &target.plural)
        .filter(|resource| resource.is_namespaced || target.namespace.is_none())
        .ok_or_else(ApiError::no_such_resource)?;
    let query = Query::parse(request.uri())?;
    let form = accept::negotiate(request.headers())?;
    let call = Call { core, resource, namespace: target.namespace.as_deref().unwrap_or_default(), user, query: &query };
    check_verb(resource, &target, request.method())?;
    let (parts, request_body) = request.into_parts();
    let (method, headers) = (parts.method, parts.headers);
    let part = part(resource, &target)?;
    let Some(name) = target.name.as_deref() else {
        return collection(&call, Arc::clone(core), Arc::clone(resource), &method, &headers, request_body, form).await;
    };
    if method == Method::GET && query.watch {
        let mut query = query.clone();
        query.field_selector = format!("metadata.name={name}");
        let start = watch::Start::parse(&query)?;
        return watch::response(core, resource, call.namespace, &query, start, form);
    }
    let reply = match method {
        Method::GET => verbs::read::get(&call, name).await?,
        Method::PUT => verbs::update::update(&call, name, part, &headers, &body::read(request_body).await?).await?,
        Method::PATCH => verbs::patch::patch(&call, name, part, &headers, &body::read(request_body).await?).await?,
        Method::DELETE if target.subresource.is_none() => {
            verbs::delete::delete(&call, name, &headers, &body::read(request_body).await?).await?
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(finish(&call, reply, form))
}

async fn collection(
    call: &Call<'_>,
    core: Arc<Core>,
    resource: Arc<Resource>,
    method: &Method,
    headers: &HeaderMap,
    request_body: Body,
    form: accept::Form,
) -> Result<Response<Body>, ApiError> {
    match *method {
        Method::GET if call.query.watch => {
            let start = watch::Start::parse(call.query)?;
            watch::response(&core, &resource, call.namespace, call.query, start, form)
        }
        Method::GET => {
            let (version, items) = verbs::read::list(call).await?;
            Ok(render::list(call.resource, version, items, form, &call.query.include_object))
        }
        Method::POST => {
            let bytes = body::read(request_body).await?;
            let reply = match call.resource.behavior {
                Behavior::SelfSubjectReview | Behavior::SelfSubjectAccessReview | Behavior::SelfSubjectRulesReview => {
                    verbs::review::review(call, headers, &bytes)?
                }
                _ if call.resource.is_namespaced && call.namespace.is_empty() => {
                    return Err(ApiError::method_not_allowed());
                }
                _ => verbs::create::create(call, headers, &bytes).await?,
            };
            Ok(finish(call, reply, form))
        }
        Method::DELETE => {
            let bytes = body::read(request_body).await?;
            let (version, items) = verbs::delete::delete_collection(call, headers, &bytes).await?;
            Ok(render::list(call.resource, version, items, accept::Form::Object, ""))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn check_verb(resource: &Resource, target: &Target, method: &Method) -> Result<(), ApiError> {
    let is_allowed = match resource.verbs {
        Verbs::All => true,
        Verbs::ReadOnly => *method == Method::GET,
        Verbs::CreateOnly => *method == Method::POST && target.name.is_none(),
    };
    if is_allowed { Ok(()) } else { Err(ApiError::method_not_allowed()) }
}

/// Which part of an object the path names.
fn part(resource: &Resource, target: &Target) -> Result<Part, ApiError> {
    match target.subresource.as_deref() {
        None => Ok(Part::Main),
        Some("status") if resource.has_status => Ok(Part::Status),
        Some("finalize") if resource.behavior == Behavior::Namespace => Ok(Part::Finalize),
        Some("approval") if resource.behavior == Behavior::SigningRequest => Ok(Part::Approval),
        Some(_) => Err(ApiError::no_such_resource()),
    }
}

fn finish(call: &Call<'_>, reply: Reply, form: accept::Form) -> Response<Body> {
    let mut response = if reply.is_object {
        render::object(call.resource, reply.code, reply.json, form, &call.query.include_object)
    } else {
        respond::json(reply.code, reply.json)
    };
    respond::warn(&mut response, &reply.warnings);
    response
}
