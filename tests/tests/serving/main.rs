//! What the controller serves to a real API server: the webhook, the aggregated API, and the certificates for both. The manifests are those that users
//! apply, and controller and agent run with the rights and the tokens that these give them; only their places differ, because no pod runs here.

mod aggregation;
mod certificates;
mod webhook;
mod world;
