//! A network for hosts: a bridge in a network namespace of its own, and for each host a namespace with a cable to it. It is there before its host boots, and
//! stays while it reboots.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::kube::{ControlPlane, Room, Server, Servers};
use crate::programs::output;
use crate::wait::wait_for;

/// For the network to be laid.
const DEADLINE: Duration = Duration::from_secs(20);

/// A network. Dropping it ends it.
#[derive(Debug)]
pub struct Lan {
    room: Arc<Room>,
    places: Vec<Server>,
    servers: Servers,
    _folder: TempDir,
}

/// A host's place in a network.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its address.
    pub address: String,
    /// Its network namespace.
    pub(super) namespace: PathBuf,
    /// The network's end of its cable.
    cable: String,
}

impl Lan {
    /// Lays it.
    ///
    /// # Errors
    /// When that fails.
    pub fn lay() -> Result<Self> {
        Self::lay_in(|servers| Room::open(servers).map(Arc::new))
    }

    /// The network that a control plane is in, which ends with the last of the two.
    ///
    /// # Errors
    /// When the control plane is on the loopback.
    pub fn around(control_plane: &ControlPlane) -> Result<Self> {
        Self::lay_in(|_| control_plane.room())
    }

    fn lay_in(room: impl FnOnce(&Servers) -> Result<Arc<Room>>) -> Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for a network")?;
        let servers = Servers::new(folder.path())?;
        Ok(Self { room: room(&servers)?, places: Vec::new(), servers, _folder: folder })
    }

    /// Pulls the cable of a place.
    ///
    /// # Errors
    /// When it is a place of another network.
    pub fn cut_off(&self, place: &Place) -> Result<()> {
        self.room.ip(&format!("link set {} down", place.cable))
    }

    /// Plugs the cable of a place in again.
    ///
    /// # Errors
    /// As for [`Self::cut_off`].
    pub fn reconnect(&self, place: &Place) -> Result<()> {
        self.room.ip(&format!("link set {} up", place.cable))
    }

    /// Another place in it, at address 10.77.0.11, .12, ...
    ///
    /// # Errors
    /// When its cable cannot be laid.
    pub fn place(&mut self) -> Result<Place> {
        let number = self.places.len() + 11;
        let (address, cable) = (format!("10.77.0.{number}"), format!("to-{number}"));
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; exec sleep infinity"]);
        let holder = self.servers.start(&cable, &command)?;
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", holder.pid()));
        wait_for("a host's network namespace is made", DEADLINE, || {
            let its = namespace.read_link()?;
            ensure!(its != PathBuf::from("/proc/self/ns/net").read_link()?, "it is still ours");
            Ok(())
        })?;
        self.room.ip(&format!("link add {cable} type veth peer name eth0 netns {}", holder.pid()))?;
        self.room.ip(&format!("link set {cable} master bridge0 up"))?;
        for words in [format!("addr add {address}/24 dev eth0"), "link set eth0 up".to_owned()] {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", namespace.display())).arg("ip").args(words.split_whitespace());
            output(&mut command)?;
        }
        self.places.push(holder);
        Ok(Place { address, namespace, cable })
    }
}
