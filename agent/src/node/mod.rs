//! The node around its guests: who it is, which guests it has, who wakes their workers, and its sign of life.

mod cache;
mod context;
mod garbage;
mod guard;
mod heartbeat;
mod host_stop;
mod identity;
mod lock;
mod proc_board;
mod register;
mod supervisor;
mod survey;
mod watch;

pub(crate) use cache::VmCache;
pub(crate) use context::NodeContext;
pub(crate) use guard::GuardBoard;
pub(crate) use heartbeat::{Heartbeat, keep_renewed};
pub(crate) use host_stop::{HostStop, MARKER, STARTS};
pub(crate) use identity::boot_id;
pub use identity::{FormerNode, IdentityError, NodeIdentity, default_node_name};
pub use lock::{HostLock, LockError};
pub(crate) use proc_board::ProcBoard;
pub use register::NodeFacts;
pub(crate) use register::{NODE_LEASES, renew_node_lease};
pub(crate) use supervisor::{Inputs, Supervisor};
pub(crate) use survey::Surveyor;
pub(crate) use watch::watch_vms;
