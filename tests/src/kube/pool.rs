//! APIs that scenarios of one test program use one after another: a control plane takes seconds to start and a tenth of that to clear.
//!
//! With `OVM_TEST_KUBECONFIG` set, there is one API, which that file names, and scenarios take turns. All OfflineVirtualMachines and
//! VirtualMachines on it are removed: it is to be a cluster for tests, without a controller of ours.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::client::Client;
use crate::kube::assets::why_unavailable;
use crate::kube::control_plane::{ControlPlane, Settings};
use crate::kube::installation::{SYSTEM_NAMESPACE, install, install_kinds, make_node};
use crate::ports::free_address;

/// Names the kubeconfig of a cluster that the scenarios are to run on, in place of control planes of their own.
const KUBECONFIG_VARIABLE: &str = "OVM_TEST_KUBECONFIG";

/// The Node that a scenario's agent works for.
pub(crate) const NODE: &str = "ovm-test-host";

/// Idle control planes, with our installation and without virtual machines.
static IDLE: Mutex<Vec<Own>> = Mutex::new(Vec::new());

/// Held while a scenario uses the cluster that the variable names.
static TURN: Mutex<()> = Mutex::new(());

/// An API server with our kinds, for one scenario at a time. Dropping it removes what the scenario left there.
#[derive(Debug)]
pub struct SharedApi {
    client: Client,
    namespaces: Vec<String>,
    source: Source,
}

/// Who our programs are to the API, and what they may be reached by.
#[derive(Debug)]
pub(crate) struct Accounts {
    pub(crate) controller: PathBuf,
    pub(crate) agent: PathBuf,
    /// Where the API server expects the controller; `None` if it cannot reach it.
    pub(crate) listen: Option<SocketAddr>,
    /// Whether the agent is to make its Node.
    pub(crate) makes_node: bool,
}

#[derive(Debug)]
struct Own {
    control_plane: ControlPlane,
    /// Where the controller is to listen.
    listen: SocketAddr,
}

#[derive(Debug)]
enum Source {
    /// `None` once it is given back.
    Own(Option<Box<Own>>),
    Given {
        kubeconfig: PathBuf,
        _turn: MutexGuard<'static, ()>,
    },
}

/// Whether scenarios run on a cluster that is not ours.
pub(crate) fn is_given() -> bool {
    given().is_some()
}

/// Why scenarios cannot run on a real API here; `None` if they can.
pub(crate) fn why_no_shared_api() -> Option<String> {
    if is_given() { None } else { why_unavailable() }
}

impl SharedApi {
    /// Takes an idle one, or starts one. `home` takes kubectl's cache.
    ///
    /// # Errors
    /// When none can be started, or it does not take our installation.
    pub fn take(home: &Path) -> Result<Self> {
        let source = if let Some(kubeconfig) = given() {
            Source::Given { kubeconfig, _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) }
        } else {
            let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
            Source::Own(Some(Box::new(idle.map_or_else(Own::start, Ok)?)))
        };
        let client = Client::new(&source.kubeconfig()?, home);
        if is_given() {
            install_kinds(&client)?;
        } else {
            make_node(&client, NODE)?;
        }
        let namespaces = namespaces(&client)?;
        Ok(Self { client, namespaces, source })
    }

    /// The administrator's kubeconfig.
    ///
    /// # Errors
    /// When the control plane was given back.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.source.kubeconfig()
    }

    /// Whom our programs are to work as: as their service accounts, where their roles are. A second call makes new tokens after [`Self::end_tokens`].
    pub(crate) fn accounts(&self) -> Result<Accounts> {
        match &self.source {
            Source::Own(own) => {
                let own = own.as_deref().context("the control plane was given back")?;
                let account = |name| own.control_plane.pod_account(SYSTEM_NAMESPACE, name, NODE);
                Ok(Accounts {
                    controller: account("ovm-controller")?,
                    agent: account("ovm-agent")?,
                    listen: Some(own.listen),
                    makes_node: false,
                })
            }
            Source::Given { kubeconfig, .. } => Ok(Accounts {
                controller: kubeconfig.clone(),
                agent: kubeconfig.clone(),
                listen: None,
                makes_node: true,
            }),
        }
    }

    /// Ends the tokens of our programs, as the end of their pods would.
    pub(crate) fn end_tokens(&self) -> Result<()> {
        let pods = ["delete", "pods", "--all", "-n", SYSTEM_NAMESPACE, "--force", "--grace-period=0"];
        self.client.kubectl(&pods).map(drop)
    }

    /// The control plane.
    ///
    /// # Errors
    /// When it is somebody else's.
    pub fn control_plane(&mut self) -> Result<&mut ControlPlane> {
        match &mut self.source {
            Source::Own(own) => Ok(&mut own.as_deref_mut().context("the control plane was given back")?.control_plane),
            Source::Given { .. } => anyhow::bail!("the control plane that {KUBECONFIG_VARIABLE} names is not ours"),
        }
    }

    /// Removes what a scenario left.
    fn clear(&self) -> Result<()> {
        let client = &self.client;
        for kind in ["offlinevirtualmachines", "virtualmachines"] {
            let list = client.get(&format!("/apis/kubevirt.io/v1alpha1/{kind}"))?.context("our kinds are gone")?;
            let objects = list["items"].as_array().context("a list has items")?;
            for object in objects.iter().filter(|object| object["metadata"]["finalizers"].is_array()) {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                let free = json!({"metadata": {"finalizers": null}});
                client.merge(kind, &text("namespace"), &text("name"), &free)?;
            }
            if !objects.is_empty() {
                client.kubectl(&["delete", kind, "--all", "--all-namespaces"])?;
            }
        }
        for namespace in namespaces(client)?.iter().filter(|name| !self.namespaces.contains(name)) {
            if namespace != SYSTEM_NAMESPACE {
                // Not waited for: with our controller gone its aggregated API does not answer, and until it does no namespace ends.
                client.kubectl(&["delete", "namespace", namespace, "--wait=false"])?;
            }
        }
        client.kubectl(&[
            "delete",
            "events,secrets,controllerrevisions,persistentvolumeclaims",
            "--all",
            "-n",
            "default",
        ])?;
        client.kubectl(&["delete", "persistentvolumes", "--selector", "made-by=ovm-test"])?;
        client.kubectl(&["delete", "leases", "--all", "-n", SYSTEM_NAMESPACE])?;
        if !is_given() {
            self.end_tokens()?;
        }
        client.kubectl(&["delete", "node", NODE, "--ignore-not-found"]).map(drop)
    }
}

impl Drop for SharedApi {
    fn drop(&mut self) {
        let cleared = self.clear();
        if let Err(error) = &cleared {
            eprintln!("a scenario's objects cannot be removed: {error:#}");
        }
        if let Source::Own(own) = &mut self.source
            && cleared.is_ok()
            && let Some(own) = own.take()
        {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(*own);
        }
    }
}

impl Source {
    fn kubeconfig(&self) -> Result<PathBuf> {
        match self {
            Self::Own(own) => {
                Ok(own.as_deref().context("the control plane was given back")?.control_plane.kubeconfig())
            }
            Self::Given { kubeconfig, .. } => Ok(kubeconfig.clone()),
        }
    }
}

impl Own {
    fn start() -> Result<Self> {
        // Nobody renews the Node of a scenario: there is no kubelet.
        let settings =
            Settings { controller_flags: vec!["--node-monitor-grace-period=1h".to_owned()], ..Settings::default() };
        let own = Self { control_plane: ControlPlane::start_with(&settings)?, listen: free_address()? };
        install(&own.control_plane.admin(), own.listen)?;
        Ok(own)
    }
}

fn given() -> Option<PathBuf> {
    std::env::var_os(KUBECONFIG_VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from)
}

fn namespaces(client: &Client) -> Result<Vec<String>> {
    let list: Value = client.get("/api/v1/namespaces")?.context("there are no namespaces")?;
    let items = list["items"].as_array().context("a list has items")?;
    Ok(items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect())
}
