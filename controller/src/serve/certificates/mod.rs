//! The controller's keys and certificates: made by it, kept in Secret `ovm-controller-tls`, replaced before they end, and told to whoever is to
//! trust them.
//!
//! Every replica does all of it. They agree because a write to the Secret carries the resourceVersion that it was decided from; whoever loses
//! reads again and finds nothing to do. Keys never reach a log.

mod keeper;
mod material;
mod plan;

pub(crate) use keeper::{Audience, keep};
pub(crate) use material::{Material, Pair};
