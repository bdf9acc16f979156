//! `virtctl drain NODE`: nothing new comes to the node, and its guests stop in order, one delete each.
//!
//! ```text
//! refuse bare VMs ─► cordon ─► look ─► nobody left: drained
//!                               ▲ │
//!                               │ └──► delete who has not been asked yet, say who is gone, wait
//!                               └────────────────────────────────────────────────────────────┘
//! ```

mod guests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use api::v1alpha1::{OfflineVirtualMachine, VirtualMachine};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cli::DrainArgs;
use crate::connection::Connection;
use crate::error::Error;
use guests::Guest;

/// Between two looks at who is left.
const PAUSE: Duration = Duration::from_millis(500);

/// Cordons a node, and stops its guests; returns when none is left.
///
/// # Errors
/// No such node, guests that nobody would start again, guests that are left at the deadline, or an API error.
pub(crate) async fn run(connection: &Connection, args: &DrainArgs) -> Result<(), Error> {
    let name = args.node.strip_prefix("node/").unwrap_or(&args.node);
    let drain = Drain { connection, node: name, force: args.force };
    drain.guests().await?;
    drain.cordon().await?;
    drain.empty(args.timeout).await?;
    println!("node/{name} drained");
    Ok(())
}

/// One node, and how it is drained.
struct Drain<'a> {
    connection: &'a Connection,
    node: &'a str,
    force: bool,
}

impl Drain<'_> {
    async fn cordon(&self) -> Result<(), Error> {
        let nodes: Api<Node> = Api::all(self.connection.client.clone());
        let failed =
            |error: kube::Error| Error::Cordon { node: self.node.to_owned(), reason: self.connection.explain(&error) };
        let node = nodes.get(self.node).await.map_err(failed)?;
        if node.spec.and_then(|spec| spec.unschedulable) == Some(true) {
            println!("node/{} already cordoned", self.node);
            return Ok(());
        }
        let patch = Patch::Merge(json!({"spec": {"unschedulable": true}}));
        nodes.patch(self.node, &PatchParams::default(), &patch).await.map_err(failed)?;
        println!("node/{} cordoned", self.node);
        Ok(())
    }

    /// Stops everybody, and waits until they are gone. A guest that was placed here before the node was cordoned may come later than the first look.
    async fn empty(&self, timeout: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        let mut asked = BTreeMap::<String, Guest>::new();
        loop {
            let left = self.guests().await?;
            let uids: BTreeSet<&str> = left.iter().map(|guest| guest.uid.as_str()).collect();
            for (_, guest) in asked.extract_if(.., |uid, _| !uids.contains(uid.as_str())) {
                println!(
                    "{} gone{}",
                    guest,
                    if guest.is_bare { "" } else { "; its OfflineVirtualMachine starts it elsewhere" }
                );
            }
            if left.is_empty() {
                return Ok(());
            }
            if !timeout.is_zero() && begun.elapsed() >= timeout {
                let left = guests::describe(&left);
                return Err(Error::NotDrained { node: self.node.to_owned(), seconds: timeout.as_secs(), left });
            }
            for guest in left {
                if !asked.contains_key(&guest.uid) {
                    self.stop(&guest).await?;
                    asked.insert(guest.uid.clone(), guest);
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// One delete, of this very VM and no later one of its name.
    async fn stop(&self, guest: &Guest) -> Result<(), Error> {
        println!("{guest} stopping");
        if guest.is_deleting {
            return Ok(());
        }
        let vms: Api<VirtualMachine> = Api::namespaced(self.connection.client.clone(), &guest.namespace);
        let preconditions = Preconditions { uid: Some(guest.uid.clone()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match vms.delete(&guest.name, &params).await {
            Ok(_) => Ok(()),
            // Gone, or replaced: the next look tells.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(Error::DeleteVm(self.connection.explain(&error))),
        }
    }

    /// The guests that the node has, or is to have.
    async fn guests(&self) -> Result<Vec<Guest>, Error> {
        let mut found = guests::bound_to(self.node, &self.vms_of_node().await?);
        if found.is_empty() {
            let ovms: Api<OfflineVirtualMachine> = Api::all(self.connection.client.clone());
            let all = ovms.list(&ListParams::default()).await;
            let all = all.map_err(|error| Error::FetchOvm(self.connection.explain(&error)))?;
            for (namespace, name) in guests::placed_on(self.node, &all.items) {
                let vms: Api<VirtualMachine> = Api::namespaced(self.connection.client.clone(), &namespace);
                let vm = vms.get_opt(&name).await.map_err(|error| Error::FetchVm(self.connection.explain(&error)))?;
                found.extend(vm.as_ref().and_then(guests::unbound));
            }
        }
        let bare: Vec<&Guest> = found.iter().filter(|guest| guest.is_bare && !guest.is_deleting).collect();
        if self.force || bare.is_empty() {
            return Ok(found);
        }
        let names: Vec<String> = bare.iter().map(|guest| format!("{}/{}", guest.namespace, guest.name)).collect();
        Err(Error::BareVms { node: self.node.to_owned(), names: names.join(", ") })
    }

    /// The VMs of the node, or all, where the server cannot select.
    async fn vms_of_node(&self) -> Result<Vec<VirtualMachine>, Error> {
        let vms: Api<VirtualMachine> = Api::all(self.connection.client.clone());
        let selected = vms.list(&ListParams::default().fields(&format!("status.nodeName={}", self.node))).await;
        let listed = match selected {
            Err(kube::Error::Api(status)) if status.code == 400 => vms.list(&ListParams::default()).await,
            other => other,
        };
        listed.map(|list| list.items).map_err(|error| Error::FetchVm(self.connection.explain(&error)))
    }
}
