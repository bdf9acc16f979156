//! What our programs say of themselves: metrics, whether their loops live, whether they are ready. Knows nothing of virtual machines.
//!
//! ```text
//! GET /metrics  OpenMetrics text, see docs/metrics.md
//! GET /healthz  200, or 503 with a line for each loop that is stuck or has ended
//! GET /readyz   200, or 503 with a line for each thing that is still missing
//! ```
//! Nothing is listened on unless asked for; counting costs a few atomic additions. [`systemd`] is told the same, and [`logs`] go to its journal.

mod api_calls;
mod health;
mod journal;
pub mod logs;
mod server;
pub mod systemd;

pub use api_calls::ApiCalls;
pub use health::{Health, LoopGuard};
pub use server::{ListenError, Server};
