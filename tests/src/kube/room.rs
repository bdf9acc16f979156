//! A network of a cluster's own: a network namespace with a bridge, which no other cluster and no host can be in the way of.
//!
//! The control plane runs in it, at [`ADDRESS`]; each node has a namespace of its own, with a cable to the bridge. Nothing of it has a name on the host.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::kube::servers::{Server, Servers};
use crate::programs::output;
use crate::wait::wait_for;

/// The control plane's address.
pub(crate) const ADDRESS: &str = "10.77.0.1";

const DEADLINE: Duration = Duration::from_secs(20);

/// Lays the network, the bridge's state last, and holds it open.
const SCRIPT: &str = "set -e
ip link set lo up
ip link add bridge0 type bridge
ip addr add 10.77.0.1/24 dev bridge0
echo 1 > /proc/sys/net/ipv4/ip_forward
ip link set bridge0 up
exec sleep infinity";

/// A network namespace. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Room {
    holder: Server,
}

impl Room {
    pub(crate) fn open(servers: &Servers) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", SCRIPT]);
        let mut room = Self { holder: servers.start("room", &command)? };
        wait_for("the cluster's network is laid", DEADLINE, || {
            room.holder.look_if_running()?;
            let listed = output(room.command(Path::new("ip")).args(["link", "show", "dev", "bridge0", "up"]))?;
            ensure!(!listed.is_empty(), "its bridge is down");
            Ok(())
        })?;
        Ok(room)
    }

    /// What puts a program into this network: words to write before it.
    pub(crate) fn entrance(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net=/proc/{}/ns/net", self.holder.pid()).into()]
    }

    /// A program in this network.
    pub(crate) fn command(&self, program: &Path) -> Command {
        enter(&self.entrance(), program)
    }

    /// Runs `ip` with these words.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        output(self.command(Path::new("ip")).args(words.split_whitespace()))
            .map(drop)
            .with_context(|| format!("run ip {words} in the cluster's network"))
    }
}

/// A program behind what puts it elsewhere.
pub(crate) fn enter(entrance: &[OsString], program: &Path) -> Command {
    match entrance {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    }
}
