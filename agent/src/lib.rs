//! Runs a node's VirtualMachines as libvirt domains.
//!
//! ```text
//!              ┌ watch (API) ──┐                    ┌ GuestWorker: observe ─► plan::node ─► execute ┐
//! Agent::start ┼ events (libvirt) ┼► Supervisor ─wake─┼ GuestWorker ...                               ├► libvirt, disks, journal, API
//!              └ heartbeat     ┘                    └ GuestWorker ...                               ┘
//! ```
//!
//! Decisions are `plan::node`'s; here is what it takes to observe and to act. `libvirt` is the only module with unsafe code.

mod blocking;
mod consoles;
pub mod credentials;
pub mod disks;
pub mod doctor;
pub mod guest;
pub mod hostfs;
pub mod hypervisor;
pub mod image_command;
pub mod image_flags;
pub mod images;
pub mod join;
pub mod journal;
pub mod layer;
pub mod leave;
pub mod libvirt;
pub mod metrics;
pub mod node;
pub mod objects;
mod options;
pub mod privileges;
pub mod proc;
pub mod registry;
pub mod run_command;
pub mod seed;
mod start;
pub mod stop_guests;
mod stream;
pub mod volumes;

pub use consoles::{ConsoleError, Consoles, DuplexStream};
pub use node::default_node_name;
pub use options::{AgentOptions, ImageOptions};
pub use start::{Agent, AgentHandle, StartError};
pub use stream::{Advertise, StreamAddress, StreamError, StreamListen};
