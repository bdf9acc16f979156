//! What a controller is told at its start.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use domain_xml::{DEFAULT_NIC_MODEL, Network};
use plan::cluster::ElectionTerms;
use telemetry::{ApiCalls, Health};

/// What a controller is told at its start. Network and model are written into `VM.status` at binding.
#[derive(Clone, Debug)]
pub struct ControllerOptions {
    /// What the guests' network card is attached to.
    pub network: Network,
    /// Model of the guests' network card.
    pub nic_model: NicModel,
    /// Another rule for the firmware UUIDs of new guests.
    pub uuid_compat: Option<UuidCompat>,
    /// Bind claims to volumes: where there is no kube-controller-manager, which does that on a cluster.
    pub bind_claims: bool,
    /// How the one of several controllers is elected that acts; none where there is one.
    pub election: Option<ElectionTerms>,
    /// Where metrics and health are served; none: nowhere.
    pub metrics: Option<MetricsOptions>,
    /// Where the controller says how its loops are: its own, or that of the process that it runs in.
    pub health: Health,
}

/// Where metrics and health are served, and what is served beside the controller's own.
#[derive(Clone, Debug)]
pub struct MetricsOptions {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// The calls of the client that the controller is given.
    pub api_calls: ApiCalls,
}

/// A rule by which another software makes firmware UUIDs, for guests that come from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UuidCompat {
    /// KubeVirt's since v0.5.0: UUIDv5 over the name alone. The same name in two namespaces gives the same UUID, and the second is not started.
    KubevirtV0,
}

/// A text that names no such rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no rule for firmware UUIDs; the one that there is is kubevirt-v0")]
pub struct UuidCompatError {
    /// What was given.
    pub text: String,
}

/// Model of a network card, as libvirt calls it: `e1000`, `virtio`, `rtl8139`, ...
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicModel(String);

/// A text that cannot be the model of a network card.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "network card model {text:?} may only have letters, digits, - and _; write one that libvirt knows, such as e1000 or virtio"
)]
pub struct NicModelError {
    /// What was given.
    pub text: String,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            network: Network::User,
            nic_model: NicModel::default(),
            uuid_compat: None,
            bind_claims: false,
            election: None,
            metrics: None,
            health: Health::default(),
        }
    }
}

impl FromStr for UuidCompat {
    type Err = UuidCompatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "kubevirt-v0" => Ok(Self::KubevirtV0),
            _ => Err(UuidCompatError { text: text.to_owned() }),
        }
    }
}

impl Default for NicModel {
    fn default() -> Self {
        Self(DEFAULT_NIC_MODEL.to_owned())
    }
}

impl FromStr for NicModel {
    type Err = NicModelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(NicModelError { text: text.to_owned() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for NicModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
