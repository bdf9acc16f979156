//! Watches feed the index, and wake the keys that a change concerns.

use api::chain;
use std::fmt::Debug;
use std::time::Duration;

use api::names::SYSTEM_NAMESPACE;
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{Config, DefaultBackoff, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::index::{Index, Wakes};

/// Seconds after which a watch is made anew, so that a dead connection is noticed.
pub(crate) const WATCH_SECONDS: u32 = 25;
/// The longest pause while the API server is away. When it is back, a guest that ended meanwhile waits no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The running watches; dropping this ends them.
pub(crate) struct Watches {
    tasks: JoinSet<()>,
    first_lists: Vec<oneshot::Receiver<()>>,
}

/// Pauses between attempts to watch: kube's, which grow, up to our longest.
#[derive(Default)]
pub(crate) struct Pauses(DefaultBackoff);

impl Watches {
    /// Returns once each kind has been listed. Before that the caches are not worth planning from.
    pub(crate) async fn listed(mut self) -> Self {
        for first_list in std::mem::take(&mut self.first_lists) {
            // The sender goes without a word only when its task ends, which is the end of everything.
            let _ = first_list.await;
        }
        self
    }

    fn spawn<K>(&mut self, context: &Context, api: Api<K>, take_in: fn(&mut Index, Event<K>, Duration) -> Wakes)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (listed, first_list) = oneshot::channel();
        self.first_lists.push(first_list);
        self.tasks.spawn(watch(context.clone(), api, take_in, listed));
    }
}

/// Starts all watches.
pub(crate) fn spawn_all(context: &Context, pods_are_served: bool) -> Watches {
    let client = || context.client.clone();
    let mut watches = Watches { tasks: JoinSet::new(), first_lists: Vec::new() };
    watches.spawn(context, Api::all(client()), |index, event, _| index.on_ovm(event));
    watches.spawn(context, Api::all(client()), |index, event, _| index.on_vm(event));
    watches.spawn(context, Api::all(client()), Index::on_node);
    watches.spawn(context, Api::<Lease>::namespaced(client(), SYSTEM_NAMESPACE), Index::on_lease);
    watches.spawn(context, Api::all(client()), |index, event, _| index.on_claim(event));
    watches.spawn(context, Api::all(client()), |index, event, _| index.on_volume(event));
    if pods_are_served {
        watches.spawn(context, Api::all(client()), |index, event, _| index.on_pod(event));
    }
    watches
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(LONGEST_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

async fn watch<K>(
    context: Context,
    api: Api<K>,
    take_in: fn(&mut Index, Event<K>, Duration) -> Wakes,
    listed: oneshot::Sender<()>,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let (mut listed, mut is_broken) = (Some(listed), false);
    let mut stream = watcher(api, Config::default().timeout(WATCH_SECONDS)).backoff(Pauses::default()).boxed();
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut is_broken) {
                    tracing::info!(kind = %K::kind(&()), "watched again");
                }
                let done = matches!(event, Event::InitDone);
                let monotonic = context.now().monotonic;
                let wakes = take_in(&mut context.index(), event, monotonic);
                context.wake_all(wakes);
                if let Some(listed) = listed.take_if(|_| done) {
                    let _ = listed.send(());
                }
            }
            Err(error) if !std::mem::replace(&mut is_broken, true) => {
                tracing::warn!(kind = %K::kind(&()), error = chain(&error), "watch broke, will be made anew");
            }
            Err(error) => tracing::debug!(kind = %K::kind(&()), error = chain(&error), "watch is still broken"),
        }
    }
}
