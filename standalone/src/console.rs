//! The controller's subresource API over this process: consoles from the agent beside it, callers as the embedded API server knows them.

use std::sync::OnceLock;

use agent::Consoles;
use apiserver::User;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use controller::console::{Caller, Channel, ConsoleError, GuestConsole, GuestRef, GuestStream};
use futures::future::BoxFuture;

/// User name of the agent in this process.
pub(crate) const AGENT_USER: &str = "system:ovm-agent";

/// Opens consoles of guests on this host, once there is an agent.
#[derive(Default)]
pub(crate) struct LocalConsole(OnceLock<Consoles>);

impl LocalConsole {
    /// From now on consoles are this agent's.
    pub(crate) fn set(&self, consoles: Consoles) {
        // One agent a process: there is no second to be refused.
        let _ = self.0.set(consoles);
    }
}

impl GuestConsole for LocalConsole {
    fn open(&self, guest: GuestRef, channel: Channel) -> BoxFuture<'_, Result<Box<dyn GuestStream>, ConsoleError>> {
        Box::pin(async move {
            let consoles = self.0.get().ok_or(ConsoleError::NotRunning)?;
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
