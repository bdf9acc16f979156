//! What the figures are measured on: a libvirtd and an `ovm-standalone` of their own, guests, and an observer that hears libvirt's events.

use std::time::{Duration, Instant};

use agent::libvirt::{Event, Events, GuestEventKind, Libvirt, LibvirtOptions, Lifecycle};
use anyhow::{Context as _, Result, bail};
use http::{Method, Request, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use tests::boot_sector::OBEYS_POWER_BUTTON;
use tests::libvirtd::why_unsupported;
use tests::machines::offline_machine;
use tests::stack::{NAMESPACE, Stack};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use uuid::Uuid;

/// The guest that takes what only the first guest pays, and that the floor is made like.
pub(crate) const WARM_UP: &str = "bench-0";
/// For one thing to happen on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);
/// What still goes on after a measurement, such as status writes and a look at all guests, is over after this.
const SETTLE: Duration = Duration::from_millis(1500);
/// A guest that does not see its power button was still booting: press again.
const PRESS_AGAIN: Duration = Duration::from_secs(1);
const PRESSES: usize = 60;
/// Name of the boot sector in the node's image store.
const IMAGE: &str = "bench:latest";

/// Servers, and what is known of their guests.
pub(crate) struct Rig {
    pub(crate) runtime: Runtime,
    pub(crate) libvirt: Libvirt,
    pub(crate) api: Client,
    /// Guests `bench-0` to `bench-(N-1)`.
    names: Vec<String>,
    // Last, so that it is dropped last.
    pub(crate) stack: Stack,
}

impl Rig {
    /// Starts the servers, creates the guests, and runs the first of them.
    ///
    /// # Errors
    /// When this host cannot run them, or one of them does not come up in time.
    pub(crate) fn start(guests: usize) -> Result<Self> {
        if let Some(reason) = why_unsupported() {
            bail!("guests cannot be measured on this host: {reason}");
        }
        let stack = Stack::start()?;
        stack.import_sector(IMAGE, &OBEYS_POWER_BUTTON)?;
        let runtime = Runtime::new().context("start the runtime")?;
        let (libvirt, api) = runtime.block_on(async {
            let libvirt = Libvirt::connect(LibvirtOptions::new(stack.libvirtd.uri())).await?;
            let kubeconfig = Kubeconfig::read_from(stack.server.kubeconfig())?;
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
            anyhow::Ok((libvirt, Client::try_from(config)?))
        })?;
        let names: Vec<String> = (0..guests).map(|index| format!("bench-{index}")).collect();
        for name in &names {
            stack.client.create(&offline_machine(NAMESPACE, name, IMAGE, false))?;
        }
        let rig = Self { runtime, libvirt, api, names, stack };
        rig.start_guest(WARM_UP)?;
        settle();
        Ok(rig)
    }

    /// The guests but the first.
    pub(crate) fn measured(&self) -> &[String] {
        self.names.get(1..).unwrap_or_default()
    }

    /// Runs every guest, and waits until all are reported to.
    ///
    /// # Errors
    /// When one does not run in time.
    pub(crate) fn run_all(&self) -> Result<()> {
        for name in &self.names {
            self.runtime.block_on(self.set_running(name))?;
        }
        for name in &self.names {
            self.stack.wait_for_status(NAMESPACE, name, true, true)?;
        }
        Ok(())
    }

    /// Sets `spec.running`, and returns how long it took from the request until libvirt said that the guest runs.
    ///
    /// # Errors
    /// When it does not run in time.
    pub(crate) fn start_guest(&self, name: &str) -> Result<Duration> {
        self.runtime.block_on(async {
            let mut events = self.libvirt.events();
            let begun = Instant::now();
            self.set_running(name).await?;
            let running = next(&mut events, &domain_name(name), |event| matches!(event, Lifecycle::Started(_))).await?;
            Ok(running.duration_since(begun))
        })
    }

    /// Sets `spec.running`.
    ///
    /// # Errors
    /// When the API refuses.
    pub(crate) async fn set_running(&self, name: &str) -> Result<()> {
        let path = format!("/apis/kubevirt.io/v1alpha1/namespaces/{NAMESPACE}/offlinevirtualmachines/{name}");
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(json!({"spec": {"running": true}}).to_string().into_bytes())
            .context("make the request")?;
        self.api.request::<Value>(request).await.with_context(|| format!("start {name}"))?;
        Ok(())
    }
}

/// Lets go on what a measurement left to do, so that it does not fall into the next one.
pub(crate) fn settle() {
    std::thread::sleep(SETTLE);
}

/// Name of the domain of a guest of ours.
pub(crate) fn domain_name(name: &str) -> String {
    format!("{NAMESPACE}_{name}")
}

/// When a guest ended by itself.
pub(crate) struct End {
    /// The guest has powered off; libvirt still ends its process.
    pub(crate) powered_off: Instant,
    /// libvirt has the domain shut off.
    pub(crate) stopped: Instant,
}

/// Presses a guest's power button until it powers off, and waits until it is shut off.
///
/// # Errors
/// When it ignores the button, or libvirt refuses.
pub(crate) async fn press_until_off(rig: &Rig, events: &mut Events, domain: &str, uuid: Uuid) -> Result<End> {
    for _ in 0..PRESSES {
        rig.libvirt.shut_down(uuid).await.context("press the power button")?;
        let shutdown = next(events, domain, |event| matches!(event, Lifecycle::Shutdown(_)));
        if let Ok(powered_off) = timeout(PRESS_AGAIN, shutdown).await {
            let powered_off = powered_off?;
            let stopped = next(events, domain, |event| matches!(event, Lifecycle::Stopped(_))).await?;
            return Ok(End { powered_off, stopped });
        }
    }
    bail!("guest {domain} ignores its power button")
}

/// Waits for a change of a domain's life, and returns when it was heard of.
///
/// # Errors
/// When it does not come in time, or the connection to libvirt is lost.
pub(crate) async fn next(events: &mut Events, domain: &str, is_it: impl Fn(Lifecycle) -> bool) -> Result<Instant> {
    let found = async {
        loop {
            match events.next().await {
                Some(Event::Guest(event)) if event.name == domain => match event.kind {
                    GuestEventKind::Lifecycle(lifecycle) if is_it(lifecycle) => return Ok(Instant::now()),
                    _ => {}
                },
                Some(Event::Guest(_)) => {}
                other => bail!("libvirt's events broke off: {other:?}"),
            }
        }
    };
    timeout(DEADLINE, found).await.with_context(|| format!("waited for domain {domain} in vain"))?
}
