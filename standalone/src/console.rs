//! The controller's console API, served by the agent in the same process.

use agent::AgentHandle;
use controller::console::{ConsoleError, ConsoleStream, GuestConsole, GuestRef};
use futures::future::BoxFuture;

/// Opens consoles of guests on this host.
pub(crate) struct LocalConsole(pub(crate) AgentHandle);

impl GuestConsole for LocalConsole {
    fn open<'a>(&'a self, guest: &'a GuestRef) -> BoxFuture<'a, Result<ConsoleStream, ConsoleError>> {
        Box::pin(async move {
            let stream = self.0.open_console(&guest.namespace, &guest.name, &guest.uid).await;
            stream.map(|stream| Box::new(stream) as ConsoleStream).map_err(|error| ConsoleError::new(&error))
        })
    }
}
