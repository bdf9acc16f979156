//! An embedded Kubernetes-compatible API server over SQLite.
//!
//! It serves built-in kinds, the custom resources that it is given, and routers that the embedding program mounts
//! (aggregated API groups). It knows nothing of virtual machines: rules that a schema cannot state come in through
//! [`Admission`], and who may do what who is no administrator through [`AccessRules`]. Clients are kubectl and kube-rs, over
//! TLS with a client certificate or a bootstrap token, or in process through [`LocalService`].
//!
//! ```no_run
//! # async fn example(crd: k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition)
//! # -> Result<(), apiserver::StartError> {
//! use apiserver::{ApiServer, Options, User};
//!
//! let mut options = Options::new("/var/lib/ovm/apiserver", ([127, 0, 0, 1], 6443).into());
//! options.custom_resources.push(crd);
//! let server = ApiServer::open(options).await?;
//! let service = server.local_service(User::system("system:ovm-controller")); // for kube::Client::new
//! let endpoint = server.listen().await?;
//! println!("KUBECONFIG={}", endpoint.kubeconfig.display());
//! server.shutdown().await;
//! # Ok(()) }
//! ```

mod access;
mod admission;
mod auth;
mod discovery;
mod gc;
mod http;
mod object;
pub mod openapi;
pub mod patch;
mod registry;
pub mod schema;
pub mod selector;
mod server;
mod signing;
mod status;
mod store;
pub mod table;
mod tls;
mod verbs;
mod watch;

pub use access::{AccessError, AccessRules};
pub use admission::{Admission, AdmissionRequest, AdmitAll, Cause, Operation};
pub use auth::User;
pub use registry::CrdError;
pub use server::{ApiServer, Endpoint, LocalService, Mount, Options, StartError};
