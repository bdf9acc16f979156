//! Ports for servers that must be told theirs.
//!
//! A port that the kernel chose and that was let go is given to the next who asks: to a server that listens on port 0, or to a connection. Ports from
//! here lie below those that Linux hands out, and are this process's own until it ends.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};

/// Below `ip_local_port_range` (32768 on Linux) and the range of Kubernetes' node ports (30000).
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// The locks of this process's ports, and where the search goes on.
static TAKEN: Mutex<(Vec<File>, u16)> = Mutex::new((Vec::new(), 0));

/// An address on the loopback that nobody listens on, and that no other test is given while this process lives.
///
/// # Errors
/// When every port is in use, or the lock files in the temporary directory cannot be made.
pub fn free_address() -> Result<SocketAddr> {
    let directory = env::temp_dir().join("ovm-test-ports");
    fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in PORTS {
        let port = PORTS.start + taken.1;
        taken.1 = (taken.1 + 1) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Some(lock) = lock(&directory.join(port.to_string()))?
            && TcpListener::bind(address).is_ok()
        {
            taken.0.push(lock);
            return Ok(address);
        }
    }
    bail!("every port from {} to {} is in use", PORTS.start, PORTS.end - 1)
}

/// The file, locked until it is closed; none where another process holds it.
fn lock(path: &Path) -> Result<Option<File>> {
    let named = || format!("lock {}", path.display());
    let file = OpenOptions::new().create(true).append(true).open(path).with_context(named)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_given_twice() {
        let first = free_address().unwrap();
        let second = free_address().unwrap();
        assert_ne!(first, second);
        let again = lock(&env::temp_dir().join("ovm-test-ports").join(first.port().to_string())).unwrap();
        assert!(again.is_none(), "the lock on {first} is not held");
    }
}
