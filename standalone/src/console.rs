//! The controller's subresource API over this process: consoles from the agent beside it and from those that joined, callers as the embedded API server
//! knows them.

use std::sync::OnceLock;

use agent::Consoles;
use apiserver::User;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use controller::console::{Caller, Channel, ConsoleError, GuestConsole, GuestRef, GuestStream};
use controller::serve::JoinedConsoles;
use futures::future::BoxFuture;

/// User name of the agent in this process.
pub(crate) const AGENT_USER: &str = "system:ovm-agent";

/// Opens consoles of guests on this host, once there is an agent, and on those that joined.
pub(crate) struct HostConsoles {
    node: String,
    own: OnceLock<Consoles>,
    joined: JoinedConsoles,
}

impl HostConsoles {
    /// Of guests on `node`, which is this host, and on others.
    pub(crate) fn new(node: String, joined: JoinedConsoles) -> Self {
        Self { node, own: OnceLock::new(), joined }
    }

    /// From now on this agent opens those of this host.
    pub(crate) fn set(&self, consoles: Consoles) {
        // One agent a process: there is no second to be refused.
        let _ = self.own.set(consoles);
    }
}

impl GuestConsole for HostConsoles {
    fn open(&self, guest: GuestRef, channel: Channel) -> BoxFuture<'_, Result<Box<dyn GuestStream>, ConsoleError>> {
        if guest.node != self.node {
            return self.joined.open(guest, channel);
        }
        Box::pin(async move {
            let consoles = self.own.get().ok_or(ConsoleError::NotRunning)?;
            let (namespace, name, uid) = (&guest.namespace, &guest.name, &guest.uid);
            let opened = match channel {
                Channel::Serial => consoles.open_serial(namespace, name, uid).await,
                Channel::Vnc => consoles.open_display(namespace, name, uid).await,
            };
            match opened {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn GuestStream>),
                Err(agent::ConsoleError::NotHere { .. }) => Err(ConsoleError::NotRunning),
                Err(error) => Err(ConsoleError::Open(Box::new(error))),
            }
        })
    }
}

/// Says to the subresource API who asks. The agent of this process is that of node `node`, as a token of a pod would say it.
pub(crate) async fn name_caller(State(node): State<String>, mut request: Request, next: Next) -> Response {
    if let Some(user) = request.extensions().get::<User>() {
        let mut caller = Caller { user: user.name.clone(), groups: user.groups.clone(), ..Caller::default() };
        if user.name == AGENT_USER {
            caller.extra.insert(api::names::NODE_NAME_CLAIM.to_owned(), vec![node]);
        }
        request.extensions_mut().insert(caller);
    }
    next.run(request).await
}
