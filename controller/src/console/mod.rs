//! The subresource API `subresources.kubevirt.io/v1alpha1`: a guest's serial console and VNC over a websocket, a VM's user data for its node's agent, and
//! the version that answers.
//!
//! Who asks is settled in front of this: by the embedded API server, or by `serve` for a cluster's. Before the upgrade every answer is plain
//! text, as clients of KubeVirt v0.5.0 expect it.

mod bridge;
mod handshake;
mod user_data;

use api::chain;
use std::collections::BTreeMap;
use std::sync::Arc;

use api::subresources::{SUBRESOURCES, VersionInfo, group_path, version_path};
use api::v1alpha1::{Phase, VirtualMachine};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use http::StatusCode;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::api_message;

/// Path of a VM's subresources.
const VM_PATH: &str = "/apis/subresources.kubevirt.io/v1alpha1/namespaces/{namespace}/virtualmachines/{name}";

/// Who asks. Every request to [`router`] carries one as an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// User name.
    pub user: String,
    /// UID of the user, where users have one.
    pub uid: Option<String>,
    /// Groups of the user.
    pub groups: Vec<String>,
    /// Further attributes, such as the node of the pod that a token was made for.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A guest, down to the VM object that the caller was let in for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRef {
    /// Namespace of the VM.
    pub namespace: String,
    /// Name of the VM.
    pub name: String,
    /// UID of the VM. A guest of another UID must not be opened.
    pub uid: String,
    /// The node that it runs on.
    pub node: String,
}

/// What of a guest is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// The first serial port.
    Serial,
    /// The display, as RFB.
    Vnc,
}

/// Raw bytes to and from a guest.
pub trait GuestStream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> GuestStream for T {}

/// Opens guests' channels; the node's agent can.
pub trait GuestConsole: Send + Sync + 'static {
    /// Opens a channel. The stream ends when the guest does.
    ///
    /// # Errors
    /// When the guest does not run here, or its channel cannot be had.
    fn open(&self, guest: GuestRef, channel: Channel) -> BoxFuture<'_, Result<Box<dyn GuestStream>, ConsoleError>>;
}

/// Why a channel cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// No guest of this VM runs here.
    #[error("the guest does not run on this node")]
    NotRunning,
    /// It runs, but the channel could not be opened.
    #[error("open the guest's channel")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The agent of the guest's node cannot be reached.
    #[error("reach the agent of node {node}")]
    Unreachable {
        /// The node.
        node: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ConsoleError {
    /// What a client is told: whether to come again is what it wants to know.
    fn code(&self) -> StatusCode {
        match self {
            Self::Unreachable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotRunning | Self::Open(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[derive(Clone)]
struct Service {
    client: Client,
    guests: Arc<dyn GuestConsole>,
}

/// The routes of `subresources.kubevirt.io/v1alpha1`, with their full paths.
pub fn router(client: Client, guests: Arc<dyn GuestConsole>) -> Router {
    Router::new()
        .route(&format!("{VM_PATH}/console"), get(console))
        .route(&format!("{VM_PATH}/vnc"), get(vnc))
        .route(&format!("{VM_PATH}/userdata"), get(user_data::get))
        .route(&format!("{VM_PATH}/test"), get(StatusCode::OK))
        .route(&format!("{}/test", group_path()), get(StatusCode::OK))
        .route(&version_path(), get(async || axum::Json(VersionInfo::own())))
        .with_state(Service { client, guests })
}

/// The `resources` of the version's discovery document.
pub fn resources() -> Vec<serde_json::Value> {
    let resource = |name: &str| serde_json::json!({"name": name, "singularName": "", "namespaced": true, "kind": "VirtualMachine", "verbs": ["get"]});
    SUBRESOURCES.map(|subresource| resource(&format!("virtualmachines/{subresource}"))).to_vec()
}

async fn console(
    State(service): State<Service>,
    Path(path): Path<(String, String)>,
    request: http::Request<Body>,
) -> Response {
    service.connect(path, Channel::Serial, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn vnc(
    State(service): State<Service>,
    Path(path): Path<(String, String)>,
    request: http::Request<Body>,
) -> Response {
    service.connect(path, Channel::Vnc, request).await.unwrap_or_else(IntoResponse::into_response)
}

/// A refusal: status and plain text.
type PlainRefusal = (StatusCode, String);

impl Service {
    async fn connect(
        &self,
        (namespace, name): (String, String),
        channel: Channel,
        mut request: http::Request<Body>,
    ) -> Result<Response, PlainRefusal> {
        let guest = self.running_guest(namespace, name).await?;
        let accepted = handshake::accept(request.headers())?;
        let stream = self.guests.open(guest.clone(), channel).await.map_err(|error| {
            let text =
                format!("Unable to connect to VM {} in namespace {}: {}", guest.name, guest.namespace, chain(&error));
            (error.code(), text)
        })?;
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match upgrade.await {
                Ok(upgraded) => bridge::run(upgraded, stream, guest).await,
                Err(error) => tracing::debug!(error = chain(&error), "the client went before the upgrade"),
            }
        });
        Ok(accepted)
    }

    /// The guest, if its VM exists and runs.
    async fn running_guest(&self, namespace: String, name: String) -> Result<GuestRef, PlainRefusal> {
        let vms = Api::<VirtualMachine>::namespaced(self.client.clone(), &namespace);
        let vm = vms.get_opt(&name).await.map_err(|error| {
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Unable to read VM {name} in namespace {namespace}: {}", api_message(&error)),
            )
        })?;
        let Some(vm) = vm else {
            return Err((StatusCode::NOT_FOUND, format!("VM {name} in namespace {namespace} not found.")));
        };
        let status = vm.status.unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        if phase != Phase::Running {
            let text = format!("Unable to connect to VM because phase is {} instead of Running", phase.as_str());
            return Err((StatusCode::BAD_REQUEST, text));
        }
        let (uid, node) = (vm.metadata.uid.unwrap_or_default(), status.node_name.unwrap_or_default());
        Ok(GuestRef { namespace, name, uid, node })
    }
}

#[cfg(test)]
mod tests;
