//! The watch on this node's VirtualMachines: keeps the cache, and says which guests changed.

use std::pin::pin;
use std::time::Duration;

use api::v1alpha1::VirtualMachine;
use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use plan::node::GuestKey;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::VmCache;

/// Seconds after which the server ends a watch: a dead connection is noticed within this time.
const WATCH_SECONDS: u32 = 25;
/// Pause between attempts to find out what the server can do.
const RETRY: Duration = Duration::from_secs(2);

/// Watches until it is dropped. Where the server can, it sends this node's VMs only; else all are sent, and the others dropped here.
pub(crate) async fn watch_vms(client: Client, node: String, cache: VmCache, changed: mpsc::UnboundedSender<GuestKey>) {
    let vms: Api<VirtualMachine> = Api::all(client);
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let selective = config.clone().fields(&format!("status.nodeName={node}"));
    let config = if can_select(&vms, &node).await { selective } else { config };
    let mut events = pin!(watcher(vms, config).default_backoff());
    let mut listed = Vec::new();
    let is_ours =
        |vm: &VirtualMachine| vm.status.as_ref().and_then(|status| status.node_name.as_deref()) == Some(&node);
    let mut was_away = false;
    while let Some(event) = events.next().await {
        let keys = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(vm)) => {
                if is_ours(&vm) {
                    listed.push(without_bookkeeping(vm));
                }
                Vec::new()
            }
            Ok(watcher::Event::InitDone) => {
                if std::mem::take(&mut was_away) {
                    info!("the API is back");
                }
                cache.replace(std::mem::take(&mut listed))
            }
            Ok(watcher::Event::Apply(vm)) if is_ours(&vm) => vec![cache.insert(without_bookkeeping(vm))],
            Ok(watcher::Event::Apply(vm) | watcher::Event::Delete(vm)) => vec![cache.remove(&vm)],
            Err(error) => {
                if !std::mem::replace(&mut was_away, true) {
                    warn!(%error, "cannot watch virtual machines");
                }
                Vec::new()
            }
        };
        for key in keys {
            // Nobody listens only while the agent ends.
            let _ = changed.send(key);
        }
    }
}

/// Whether the server knows field `status.nodeName` (Kubernetes does since 1.31).
async fn can_select(vms: &Api<VirtualMachine>, node: &str) -> bool {
    loop {
        let probe = kube::api::ListParams::default().fields(&format!("status.nodeName={node}")).limit(1);
        match vms.list_metadata(&probe).await {
            Ok(_) => return true,
            Err(kube::Error::Api(status)) if status.code == 400 => return false,
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Managed fields are most of an object's size, and nothing here reads them.
fn without_bookkeeping(mut vm: VirtualMachine) -> VirtualMachine {
    vm.managed_fields_mut().clear();
    vm.metadata.managed_fields = None;
    vm
}
