//! The command line. Every flag has an `OVM_` variable.

use std::net::SocketAddr;
use std::path::PathBuf;

use agent::image_flags::ImageFlags;
use clap::Parser;
use controller::{NicModel, UuidCompat};
use domain_xml::Network;
use plan::node::Emulation;

/// Virtual machines as Kubernetes objects, on this host alone: an embedded API server, the controller and the agent in one process.
#[derive(Debug, Parser)]
#[command(name = "ovm-standalone", version)]
pub(crate) struct Options {
    /// Directory for the store, certificates, kubeconfig, images and disks
    #[arg(long, env = "OVM_DATA_DIR", value_name = "DIR", default_value = "/var/lib/ovm")]
    pub(crate) data_dir: PathBuf,
    /// Address that the API server listens on; port 0 takes a free one. Another than the loopback lets hosts join, and exposes the API to the network
    #[arg(long, env = "OVM_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:6443")]
    pub(crate) listen: SocketAddr,
    /// Name or address by which other hosts reach this one; may be repeated, the first is what hosts that join are told [default: the listen address]
    #[arg(long, env = "OVM_ADVERTISE", value_name = "HOST", value_delimiter = ',')]
    pub(crate) advertise: Vec<String>,
    /// Group whose members administer this server: they get DIR/group.kubeconfig (mode 0640). Whoever administers it is root here
    #[arg(long, env = "OVM_KUBECONFIG_GROUP", value_name = "GROUP")]
    pub(crate) kubeconfig_group: Option<String>,
    /// The libvirt that runs the guests
    #[arg(long, env = "OVM_LIBVIRT_URI", value_name = "URI", default_value = "qemu:///system")]
    pub(crate) libvirt_uri: String,
    /// Whether guests may run without KVM: never, fallback (where libvirt has no KVM) or always
    #[arg(long, env = "OVM_EMULATION", value_name = "POLICY", default_value_t)]
    pub(crate) emulation: Emulation,
    /// Name of this host's Node [default: the one that it had, at first the host's name]
    #[arg(long, env = "OVM_NODE_NAME", value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// Network of the guests: user, none, libvirt:NAME or bridge:NAME
    #[arg(long, env = "OVM_NETWORK", value_name = "NETWORK", default_value = "user")]
    pub(crate) network: Network,
    /// Model of the guests' network card
    #[arg(long, env = "OVM_NIC_MODEL", value_name = "MODEL", default_value_t)]
    pub(crate) nic_model: NicModel,
    /// Directory below which PersistentVolumes may hold guests' disks, or a block device that is one. May be given several times.
    #[arg(long = "volume-root", env = "OVM_VOLUME_ROOTS", value_name = "DIR", value_delimiter = ':')]
    pub(crate) volume_roots: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) images: ImageFlags,
    /// Make firmware UUIDs of new guests as another software does: kubevirt-v0 (of the name alone). For guests that come from there.
    #[arg(long, env = "OVM_UUID_COMPAT", value_name = "RULE")]
    pub(crate) uuid_compat: Option<UuidCompat>,
}
