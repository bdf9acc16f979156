//! `ovm-controller` and `ovm-agent` as child processes of a test, on a real API server.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::client::Client;
use crate::kube::{Accounts, NODE, Server, Servers, SharedApi, wait_until_served};
use crate::libvirtd::Signal;
use crate::ports::free_address;
use crate::programs::program;
use crate::standalone::volume_root;
use crate::wait::wait_for;

/// Time to be ready on a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Both programs, running or stopped. Dropping them kills them; guests go on running.
#[derive(Debug)]
pub struct Separate {
    // In the order in which they are to end.
    agent: Option<Server>,
    controller: Option<Server>,
    servers: Servers,
    data: PathBuf,
    libvirt_uri: String,
    client: Client,
    accounts: Accounts,
    api: SharedApi,
}

impl Separate {
    /// Starts both, and waits until the agent's node takes guests. `base` is a directory that exists; the agent's data is in `base/data`.
    ///
    /// # Errors
    /// When the programs are not built, there is no API, or the node is not ready in time; the message then carries a log.
    pub fn start(base: &Path, libvirt_uri: &str) -> Result<Self> {
        let api = SharedApi::take(base)?;
        let client = Client::new(&api.kubeconfig()?, base);
        let accounts = api.accounts()?;
        let servers = Servers::new(base)?;
        let data = base.join("data");
        let mut separate = Self {
            agent: None,
            controller: None,
            servers,
            data,
            libvirt_uri: libvirt_uri.to_owned(),
            client,
            accounts,
            api,
        };
        separate.start_again()?;
        Ok(separate)
    }

    /// Starts both after [`Self::stop`].
    ///
    /// # Errors
    /// When the node is not ready in time.
    pub fn start_again(&mut self) -> Result<()> {
        let mut controller = Command::new(program("ovm-controller")?);
        // There is one: it need not wait until the Lease of one that was killed has lapsed.
        controller.arg("--leader-elect=false").arg("--kubeconfig").arg(&self.accounts.controller);
        controller.args(self.accounts.listen.map(|address| format!("--listen={address}")));
        self.controller = Some(self.servers.start("ovm-controller", &controller)?);
        self.start_agent()?;
        wait_for("the node takes guests", DEADLINE, || {
            for server in [&mut self.controller, &mut self.agent].into_iter().flatten() {
                server.look_if_running()?;
            }
            let node = self.client.get(&format!("/api/v1/nodes/{NODE}"))?.context("there is no Node")?;
            let label = &node["metadata"]["labels"]["kubevirt.io/schedulable"];
            ensure!(label == "true", "its label kubevirt.io/schedulable is {label}");
            Ok(())
        })
        .and_then(|()| if self.accounts.listen.is_some() { wait_until_served(&self.client) } else { Ok(()) })
        .with_context(|| self.log())
    }

    /// Ends both by a signal and waits until they are gone.
    ///
    /// # Errors
    /// When one does not run, or does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        self.stop_agent(signal)?;
        self.controller.take().context("ovm-controller does not run")?.stop(signal)
    }

    /// Ends the agent alone.
    ///
    /// # Errors
    /// When it does not run, or does not end in time.
    pub fn stop_agent(&mut self, signal: Signal) -> Result<()> {
        self.agent.take().context("ovm-agent does not run")?.stop(signal)
    }

    /// Starts the agent alone, and does not wait.
    ///
    /// # Errors
    /// When it is not built.
    pub fn start_agent(&mut self) -> Result<()> {
        let mut agent = Command::new(program("ovm-agent")?);
        agent.arg("--kubeconfig").arg(&self.accounts.agent);
        agent.args(["--node-name", NODE, "--emulation", "always", "--console-listen", &free_address()?.to_string()]);
        agent.args(self.accounts.makes_node.then_some("--register-node"));
        agent.args(["--libvirt-uri", &self.libvirt_uri]).arg("--data-dir").arg(&self.data);
        agent.arg("--volume-root").arg(volume_root(&self.data));
        // One agent for a libvirt; this one's libvirt is this test's.
        agent.arg("--lock-dir").arg(self.data.parent().context("the data directory has a parent")?);
        self.agent = Some(self.servers.start("ovm-agent", &agent)?);
        Ok(())
    }

    /// Ends the tokens that both programs work with, and waits until the API takes them no more.
    ///
    /// # Errors
    /// When it still does, in time.
    pub fn end_tokens(&mut self) -> Result<()> {
        self.api.end_tokens()?;
        let agent = Client::new(&self.accounts.agent, self.data.parent().context("the data directory has a parent")?);
        wait_for("the agent's token is refused", DEADLINE, || {
            let said = agent.kubectl_fails(&["get", "vm", "-A"])?;
            ensure!(said.contains("Unauthorized") || said.contains("must be logged in"), "it says {said}");
            Ok(())
        })
    }

    /// Writes new tokens to where both programs read theirs, which they do once a minute, and looks that both still run.
    ///
    /// # Errors
    /// When one has ended.
    pub fn renew_tokens(&mut self) -> Result<()> {
        self.accounts = self.api.accounts()?;
        [&mut self.controller, &mut self.agent].into_iter().flatten().try_for_each(Server::look_if_running)
    }

    /// kubectl and virtctl of the administrator.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The API that they work with.
    pub fn api(&mut self) -> &mut SharedApi {
        &mut self.api
    }

    /// The agent's data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The ends of their logs.
    pub fn log(&self) -> String {
        self.servers.logs(&["ovm-controller", "ovm-agent"])
    }
}
