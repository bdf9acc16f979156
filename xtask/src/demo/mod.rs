//! `make demo` and `make stop`: the user guide's example on this host, from nothing to a guest's login prompt, and back to nothing.
//!
//! Each step looks first and acts only where something is missing, so that a second `make demo` starts only what is not up. What the demo
//! started is noted in `.demo`, and `make stop` ends that and nothing else.

mod example;
mod libvirt;
mod running;
mod server;
mod state;

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use self::example::{Example, NAMESPACE};
use self::libvirt::Libvirt;
use self::server::Server;
use self::state::DemoState;
use crate::workspace::Workspace;
use crate::{guest, kvm, process};

/// What the example's manifest asks for, and what we put under that name.
const IMAGE: &str = "kubevirt/cirros-registry-disk-demo:latest";

/// Which demo is meant.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// Where the demo keeps its state; `.demo` in the repository unless said
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Place {
    fn folder(&self, workspace: &Workspace) -> PathBuf {
        self.state.clone().unwrap_or_else(|| workspace.root.join(".demo"))
    }
}

/// Brings everything up, and shows the guest's boot output up to its login prompt.
///
/// # Errors
/// The first step that fails, by name. What is up by then stays up: run it again, or `make stop`.
pub(crate) fn run(workspace: &Workspace, place: &Place, programs: Option<PathBuf>) -> Result<()> {
    let programs = if let Some(folder) = programs {
        folder
    } else {
        say("building the programs (the first time takes some minutes)");
        workspace.build_release(&[])?;
        workspace.target.join("release")
    };
    let guest = guest::build(workspace)?;
    let state = DemoState::open(&place.folder(workspace))?;
    Libvirt::new(&state).start_if_needed()?;
    libvirt::warn_of_slow_host_name();
    let server = Server::new(&state);
    if !server.is_running() {
        say("does KVM work here? (at most 10 s)");
        let verdict = kvm::probe(&guest)?;
        say(&verdict.to_string());
        server.start(&programs, &verdict)?;
    }
    server.import_image(&programs, IMAGE, &guest.disk)?;
    say(&format!(
        "{IMAGE} is the demo guest here, made of Debian packages by xtask/guest/build.sh; nothing is pulled from a registry"
    ));
    let example = Example::new(workspace, &programs, &state);
    example.apply_if_needed()?;
    example.start_if_needed()?;
    example.show_boot_output()?;
    say_what_next(workspace, &programs, &state);
    Ok(())
}

/// Ends what [`run`] started, guests included, and removes `.demo`.
///
/// # Errors
/// When something that the demo started cannot be ended; the message says what is left.
pub(crate) fn stop(workspace: &Workspace, place: &Place) -> Result<()> {
    let Some(state) = DemoState::open_existing(&place.folder(workspace))? else {
        say("nothing to stop");
        return Ok(());
    };
    let server = Server::new(&state);
    if server.is_running() {
        if process::find("kubectl").is_some() {
            server.delete_machines();
        }
        server.stop()?;
    }
    let libvirt = Libvirt::new(&state);
    libvirt.destroy_guests()?;
    libvirt.stop_if_ours()?;
    state.remove()?;
    say("stopped, and its state removed");
    Ok(())
}

fn say(text: &str) {
    println!("demo: {text}");
}

fn say_what_next(workspace: &Workspace, programs: &Path, state: &DemoState) {
    let kubeconfig = state.kubeconfig();
    println!(
        "
demo: all is up. Try, in a shell:

  export KUBECONFIG={kubeconfig}
  export PATH={programs}:$PATH

  kubectl get ovm,vm -n {NAMESPACE}                  # the example runs in namespace {NAMESPACE}
  kubectl describe ovm ovm-cirros -n {NAMESPACE}
  virtctl console ovm-cirros -n {NAMESPACE}          # log in as cirros, password gocubsgo; ^] leaves
  kubectl delete vm ovm-cirros -n {NAMESPACE}        # restart: a new VM, the same firmware UUID
  virtctl stop ovm-cirros -n {NAMESPACE}
  kubectl create -f {root}/examples/ovm.yaml   # the same example in namespace default

  make stop                                     # ends all of it, guests included
",
        kubeconfig = kubeconfig.display(),
        programs = programs.display(),
        root = workspace.root.display(),
    );
}
