//! `ovm-agent stop-guests`: stops all guests of this host in order, as at its shutdown. `ovm-guests.service` runs it then. It needs neither agent nor API, only
//! libvirt: the guests' grace periods are in their domains' metadata. What to do is decided by `plan::node`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use api::chain;
use clap::Args;
use domain_xml::{Metadata, RenderError, parse_metadata, render_metadata};
use futures::future::join_all;
use jiff::Timestamp;
use plan::node::{HostStopStep, RunningGuest, plan_host_stop};
use tokio::time::sleep;
use tracing::{info, warn};
use uuid::Uuid;

use crate::AgentOptions;
use crate::libvirt::{ConnectError, DomainSummary, Error, Libvirt, LibvirtOptions};
use crate::node::{HostLock, MARKER, STARTS};

/// Between two looks at the guests.
const TURN: Duration = Duration::from_millis(500);
/// How long the agent may take to tell the API that this node takes no more guests, and to end the starts that are under way.
const AGENT_DEADLINE: Duration = Duration::from_secs(30);
/// How long the agent may take to report how the guests ended. It undefines what it has reported.
const REPORT_DEADLINE: Duration = Duration::from_secs(30);
/// How long libvirt may take to answer at all.
const LIBVIRT_DEADLINE: Duration = Duration::from_mins(1);
/// How long a guest that was ended may take to be gone.
const END_DEADLINE: Duration = Duration::from_mins(1);

/// Stop all guests of this host in order, each within its grace period; nothing is started until the host has booted.
#[derive(Debug, Args)]
pub struct StopGuestsArgs {
    /// The libvirt whose guests are stopped.
    #[arg(long, env = "OVM_LIBVIRT_URI", default_value = AgentOptions::DEFAULT_LIBVIRT_URI, value_name = "URI")]
    pub libvirt_uri: String,
    /// What the host waits for a guest at most, in seconds, whatever the guest's own grace period is.
    #[arg(long, env = "OVM_LONGEST_GRACE", default_value_t = 300, value_name = "SECONDS")]
    pub longest_grace: u64,
    /// Do nothing unless systemd is shutting the host down.
    #[arg(long)]
    pub if_host_stops: bool,
    /// Folder through which the agent is told.
    #[arg(long, env = "OVM_RUN_DIR", default_value = AgentOptions::DEFAULT_RUN_DIR, value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Directory of the agent's lock.
    #[arg(long, env = "OVM_LOCK_DIR", default_value = AgentOptions::DEFAULT_LOCK_DIR, value_name = "DIR")]
    pub lock_dir: PathBuf,
}

/// Why the guests were not stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopGuestsError {
    /// The agent cannot be told.
    #[error("announce the shutdown in {}", file.display())]
    Announce {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// systemd does not say whether the host shuts down.
    #[error("ask systemd whether the host shuts down")]
    Systemd(#[source] io::Error),
    /// There is no libvirt.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// libvirt does not list its guests.
    #[error("list the guests")]
    List(#[source] Error),
    /// They outlive it.
    #[error("{0} guests still run, and do not end")]
    Left(usize),
}

/// What this command did to a guest.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    deadline: Option<Timestamp>,
    recorded: bool,
    told: Option<Timestamp>,
}

/// A step that was not carried out; the next turn tries again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Libvirt(#[from] Error),
    #[error(transparent)]
    Metadata(#[from] RenderError),
}

impl StopGuestsArgs {
    /// Stops them.
    ///
    /// # Errors
    /// If libvirt does not answer, or a guest does not end.
    pub async fn run(self) -> Result<(), StopGuestsError> {
        if self.if_host_stops && !host_stops()? {
            info!("the host is not shutting down; guests run on");
            return Ok(());
        }
        self.announce().await?;
        let libvirt = self.connect().await?;
        let stopped = self.stop_all(&libvirt).await?;
        if !stopped.is_empty() && HostLock::is_held(&self.lock_dir, &self.libvirt_uri) {
            await_reports(&libvirt, &stopped).await;
        }
        info!(stopped = stopped.len(), "no guest of ours runs");
        Ok(())
    }

    /// A libvirtd that was just restarted is waited for: nobody else stops the guests in order.
    async fn connect(&self) -> Result<Libvirt, StopGuestsError> {
        let begun = Instant::now();
        loop {
            match Libvirt::connect(LibvirtOptions::new(&self.libvirt_uri)).await {
                Ok(libvirt) => return Ok(libvirt),
                Err(error) if begun.elapsed() > LIBVIRT_DEADLINE => return Err(error.into()),
                Err(error) => warn!(error = chain(&error), "libvirt does not answer yet"),
            }
            sleep(TURN).await;
        }
    }

    /// Tells the agent, and waits until it starts nothing any more.
    async fn announce(&self) -> Result<(), StopGuestsError> {
        let file = self.run_dir.join(MARKER);
        let failed = |source| StopGuestsError::Announce { file: file.clone(), source };
        fs::create_dir_all(&self.run_dir).map_err(failed)?;
        fs::write(&file, "").map_err(failed)?;
        // Without it no agent was started that could be waited for.
        let Ok(starts) = File::open(self.run_dir.join(STARTS)) else { return Ok(()) };
        let begun = Instant::now();
        while starts.try_lock().is_err() {
            if begun.elapsed() > AGENT_DEADLINE {
                warn!("the agent does not say that it starts no more guests; going on");
                break;
            }
            sleep(TURN).await;
        }
        Ok(())
    }

    /// Stops all guests; returns which ones there were.
    async fn stop_all(&self, libvirt: &Libvirt) -> Result<BTreeSet<Uuid>, StopGuestsError> {
        let longest = Duration::from_secs(self.longest_grace);
        let begun = Instant::now();
        let mut done = BTreeMap::<Uuid, Done>::new();
        loop {
            let is_over = begun.elapsed() > longest + END_DEADLINE;
            match own_domains(libvirt, true).await {
                Ok(guests) if guests.is_empty() => return Ok(done.into_keys().collect()),
                Ok(guests) if is_over => return Err(StopGuestsError::Left(guests.len())),
                Ok(guests) => {
                    // Side by side: no guest's time passes while libvirt is busy with another one.
                    let turns = guests.iter().map(|guest| async {
                        let before = done.get(&guest.0.uuid).copied().unwrap_or_default();
                        (guest.0.uuid, turn(libvirt, longest, guest, before).await)
                    });
                    let after = join_all(turns).await;
                    done.extend(after);
                }
                Err(error) if is_over => return Err(StopGuestsError::List(error)),
                Err(error) => warn!(error = chain(&error), "libvirt does not list its guests; asked again"),
            }
            sleep(TURN).await;
        }
    }
}

/// Whether a job to shut the host down is under way.
fn host_stops() -> Result<bool, StopGuestsError> {
    let answer = Command::new("systemctl").arg("is-system-running").output().map_err(StopGuestsError::Systemd)?;
    Ok(answer.stdout.trim_ascii() == b"stopping")
}

/// Domains with our metadata, of whichever installation: at this host's end they all end.
async fn own_domains(libvirt: &Libvirt, active: bool) -> Result<Vec<(DomainSummary, Metadata)>, Error> {
    let domains = libvirt.list_domains().await?;
    let own = domains.into_iter().filter_map(|domain| {
        let metadata = parse_metadata(domain.metadata.as_ref()?).ok()?;
        (domain.state.is_active() == active).then_some((domain, metadata))
    });
    Ok(own.collect())
}

/// Plans and does what is due for a guest; returns what was done to it so far.
async fn turn(
    libvirt: &Libvirt,
    longest: Duration,
    guest @ (domain, metadata): &(DomainSummary, Metadata),
    mut done: Done,
) -> Done {
    let Done { deadline, recorded, told } = done;
    let seen = RunningGuest { grace: Duration::from_secs(metadata.grace_period_seconds), deadline, recorded, told };
    for step in plan_host_stop(Timestamp::now(), longest, &seen) {
        if let Err(error) = execute(libvirt, guest, step, &mut done).await {
            warn!(domain = domain.name, ?step, error = chain(&error), "a guest is not stopped yet");
        }
    }
    done
}

async fn execute(
    libvirt: &Libvirt,
    (domain, metadata): &(DomainSummary, Metadata),
    step: HostStopStep,
    done: &mut Done,
) -> Result<(), StepError> {
    let uuid = domain.uuid;
    match step {
        HostStopStep::SetDeadline(deadline) => {
            done.deadline = Some(deadline);
            info!(domain = domain.name, %deadline, "stopping");
            let metadata = Metadata { deletion_deadline: Some(deadline), ..metadata.clone() };
            libvirt.set_metadata(uuid, render_metadata(&metadata)?).await?;
            done.recorded = true;
        }
        HostStopStep::Shutdown => {
            done.told = Some(Timestamp::now());
            libvirt.shut_down(uuid).await?;
        }
        HostStopStep::Destroy => libvirt.destroy(uuid).await?,
    }
    Ok(())
}

/// Waits until the agent has reported how these guests ended: libvirt forgets it with the host.
async fn await_reports(libvirt: &Libvirt, stopped: &BTreeSet<Uuid>) {
    let begun = Instant::now();
    while begun.elapsed() < REPORT_DEADLINE {
        match own_domains(libvirt, false).await {
            Ok(left) if left.iter().all(|(domain, _)| !stopped.contains(&domain.uuid)) => return,
            Ok(_) => {}
            Err(error) => warn!(error = chain(&error), "cannot see whether the agent has reported"),
        }
        sleep(TURN).await;
    }
    warn!("the agent has not reported how all guests ended");
}
