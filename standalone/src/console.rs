//! The controller's console API, served by the agent in the same process.

use agent::Consoles;
use controller::console::{Channel, ConsoleError, GuestConsole, GuestRef, GuestStream};
use futures::future::BoxFuture;

/// Opens consoles of guests on this host.
pub(crate) struct LocalConsole(pub(crate) Consoles);

impl GuestConsole for LocalConsole {
    fn open(&self, guest: GuestRef, channel: Channel) -> BoxFuture<'_, Result<Box<dyn GuestStream>, ConsoleError>> {
        Box::pin(async move {
            let (namespace, name, uid) = (&guest.namespace, &guest.name, &guest.uid);
            let opened = match channel {
                Channel::Serial => self.0.open_serial(namespace, name, uid).await,
                Channel::Vnc => self.0.open_display(namespace, name, uid).await,
            };
            match opened {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn GuestStream>),
                Err(agent::ConsoleError::NotHere { .. }) => Err(ConsoleError::NotRunning),
                Err(error) => Err(ConsoleError::Open(Box::new(error))),
            }
        })
    }
}
