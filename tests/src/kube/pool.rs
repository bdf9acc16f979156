//! APIs that scenarios of one test program use one after another: a control plane takes seconds to start and a tenth of that to clear.
//!
//! With `OVM_TEST_KUBECONFIG` set, there is one API, which that file names, and scenarios take turns. All OfflineVirtualMachines and
//! VirtualMachines on it are removed: it is to be a cluster for tests, without a controller of ours.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::client::Client;
use crate::kube::assets::why_unavailable;
use crate::kube::control_plane::ControlPlane;
use crate::programs::repository;

/// Names the kubeconfig of a cluster that the scenarios are to run on, in place of control planes of their own.
const KUBECONFIG_VARIABLE: &str = "OVM_TEST_KUBECONFIG";

/// Idle control planes, with our kinds and without objects of them.
static IDLE: Mutex<Vec<ControlPlane>> = Mutex::new(Vec::new());

/// Held while a scenario uses the cluster that the variable names.
static TURN: Mutex<()> = Mutex::new(());

/// An API server with our kinds, for one scenario at a time. Dropping it removes what the scenario left there.
#[derive(Debug)]
pub struct SharedApi {
    kubeconfig: PathBuf,
    home: PathBuf,
    namespaces: Vec<String>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// `None` once it is given back.
    Own(Option<Box<ControlPlane>>),
    Given {
        _turn: MutexGuard<'static, ()>,
    },
}

/// Why scenarios cannot run on a real API here; `None` if they can.
pub fn why_no_shared_api() -> Option<String> {
    if given().is_some() { None } else { why_unavailable() }
}

impl SharedApi {
    /// Takes an idle one, or starts one. `home` takes kubectl's cache.
    ///
    /// # Errors
    /// When none can be started, or it does not take our kinds.
    pub fn take(home: &Path) -> Result<Self> {
        if let Some(kubeconfig) = given() {
            let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            let client = Client::new(&kubeconfig, home);
            apply_kinds(&client)?;
            let namespaces = namespaces(&client)?;
            return Ok(Self { kubeconfig, home: home.to_owned(), namespaces, source: Source::Given { _turn: turn } });
        }
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let control_plane = match idle {
            Some(control_plane) => control_plane,
            None => start()?,
        };
        let kubeconfig = control_plane.kubeconfig();
        let namespaces = namespaces(&Client::new(&kubeconfig, home))?;
        let source = Source::Own(Some(Box::new(control_plane)));
        Ok(Self { kubeconfig, home: home.to_owned(), namespaces, source })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The control plane, where it is ours.
    ///
    /// # Errors
    /// When the API is somebody else's.
    pub fn control_plane(&mut self) -> Result<&mut ControlPlane> {
        match &mut self.source {
            Source::Own(control_plane) => control_plane.as_deref_mut().context("the control plane was given back"),
            Source::Given { .. } => anyhow::bail!("the control plane that {KUBECONFIG_VARIABLE} names is not ours"),
        }
    }

    /// Removes what a scenario left.
    fn clear(&self) -> Result<()> {
        let client = Client::new(&self.kubeconfig, &self.home);
        for kind in ["offlinevirtualmachines", "virtualmachines"] {
            let list = client.get(&format!("/apis/kubevirt.io/v1alpha1/{kind}"))?.context("our kinds are gone")?;
            for object in list["items"].as_array().context("a list has items")? {
                let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                if object["metadata"]["finalizers"].is_array() {
                    let free = json!({"metadata": {"finalizers": null}});
                    client.merge(kind, &text("namespace"), &text("name"), &free)?;
                }
            }
            client.kubectl(&["delete", kind, "--all", "--all-namespaces"])?;
        }
        for namespace in namespaces(&client)?.iter().filter(|name| !self.namespaces.contains(name)) {
            if namespace != SYSTEM_NAMESPACE {
                client.kubectl(&["delete", "namespace", namespace])?;
            }
        }
        for (namespace, kinds) in [("default", "events,secrets,controllerrevisions"), (SYSTEM_NAMESPACE, "leases")] {
            client.kubectl(&["delete", kinds, "--all", "-n", namespace])?;
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
        if let Source::Own(control_plane) = &mut self.source
            && cleared.is_ok()
            && let Some(control_plane) = control_plane.take()
        {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(*control_plane);
        }
    }
}

/// The namespace of our own Leases.
const SYSTEM_NAMESPACE: &str = "kubevirt-system";

/// The Node that a scenario's agent makes.
pub const NODE: &str = "ovm-test-host";

fn given() -> Option<PathBuf> {
    std::env::var_os(KUBECONFIG_VARIABLE).filter(|file| !file.is_empty()).map(PathBuf::from)
}

fn start() -> Result<ControlPlane> {
    let control_plane = ControlPlane::start()?;
    apply_kinds(&control_plane.admin())?;
    Ok(control_plane)
}

/// Our CustomResourceDefinitions, as they are released.
fn apply_kinds(client: &Client) -> Result<()> {
    let folder = repository().join("manifests/crd").display().to_string();
    client.kubectl(&["apply", "--server-side", "-k", &folder])?;
    let kinds = ["crd/offlinevirtualmachines.kubevirt.io", "crd/virtualmachines.kubevirt.io"];
    client.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", kinds[0], kinds[1]]).map(drop)
}

fn namespaces(client: &Client) -> Result<Vec<String>> {
    let list: Value = client.get("/api/v1/namespaces")?.context("there are no namespaces")?;
    let items = list["items"].as_array().context("a list has items")?;
    Ok(items.iter().filter_map(|item| item["metadata"]["name"].as_str()).map(str::to_owned).collect())
}
