//! The address at which the controller reaches this agent. A host may have several, and others tomorrow: the one from which packets go to the API server is
//! the one that a controller beside it can answer to.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How often is looked whether it is still so.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Name servers that say nothing are not waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Port of an API server's address that names none.
const HTTPS: u16 = 443;

/// The address at which the controller reaches this agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// This.
    At(IpAddr),
    /// This host's own on the way to this server.
    Towards(http::Uri),
}

impl Advertise {
    /// The address as it is now.
    pub(super) async fn look(&self) -> io::Result<IpAddr> {
        match self {
            Self::At(address) => Ok(*address),
            Self::Towards(server) => timeout(PATIENCE, own_address(server)).await?,
        }
    }

    /// Tells of each change, for ever.
    pub(super) async fn follow(&self, tell: impl Fn(IpAddr)) {
        let Self::Towards(server) = self else { return };
        let (mut known, mut is_lost) = (None, false);
        loop {
            match self.look().await {
                Ok(address) if known != Some(address) => {
                    (known, is_lost) = (Some(address), false);
                    info!(%address, "the controller is told to open consoles at this address");
                    tell(address);
                }
                Ok(_) => is_lost = false,
                Err(error) if !is_lost => {
                    is_lost = true;
                    warn!(%server, %error, "this host has no address towards the API server: consoles cannot be opened; --advertise-address names one");
                }
                Err(_) => {}
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The address from which packets go to a server; none is sent.
async fn own_address(server: &http::Uri) -> io::Result<IpAddr> {
    let host = server.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let mut error = io::Error::from(io::ErrorKind::HostUnreachable);
    for address in lookup_host((host, server.port_u16().unwrap_or(HTTPS))).await? {
        match towards(address).await {
            Ok(own) => return Ok(own),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

async fn towards(address: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_address_is_the_one_on_the_way_to_the_server() {
        let towards = |server: &'static str| Advertise::Towards(http::Uri::from_static(server));
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(towards("https://127.0.0.1:6443").look().await.unwrap(), loopback);
        assert_eq!(towards("https://127.3.2.1").look().await.unwrap(), loopback);
        let given = IpAddr::from([192, 0, 2, 7]);
        assert_eq!(Advertise::At(given).look().await.unwrap(), given);
    }
}
