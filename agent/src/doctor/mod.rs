//! `ovm-agent doctor`: whether this host can run guests, one line a check, each with its fix. `checks` finds out, `judge` decides what that means.
//!
//! It asks everything as the service would be asked to do it, but changes nothing; run it as root, or as the service's user.

mod checks;
mod conditions;
mod judge;
mod kvm;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
pub(crate) use conditions::{NodeCheck, NodeChecks};
use plan::node::Emulation;

use crate::AgentOptions;
use crate::images::DEFAULT_DATA_DIR;
use crate::join::DEFAULT_KUBECONFIG;

/// Check whether this host can run guests; prints one line a check, with its fix.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The libvirt to check.
    #[arg(long, env = "OVM_LIBVIRT_URI", default_value = AgentOptions::DEFAULT_LIBVIRT_URI, value_name = "URI")]
    pub libvirt_uri: String,
    /// Directory of the agent's state.
    #[arg(long, env = "OVM_DATA_DIR", default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Whether guests may be emulated where there is no KVM: never, fallback or always.
    #[arg(long, env = "OVM_EMULATION", default_value_t = Emulation::Never, value_name = "WHEN")]
    pub emulation: Emulation,
    /// Kubeconfig of the cluster that the agent works for; not checked where there is none.
    #[arg(long, env = "OVM_KUBECONFIG", default_value = DEFAULT_KUBECONFIG, value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// All is well; what was seen.
    Good(String),
    /// Not as it should be, and guests run all the same.
    Odd {
        /// What was seen.
        seen: String,
        /// What to do.
        fix: String,
    },
    /// Guests do not run.
    Bad {
        /// What was seen.
        seen: String,
        /// What to do.
        fix: String,
    },
}

impl Finding {
    fn good(seen: impl Into<String>) -> Self {
        Self::Good(seen.into())
    }

    fn odd(seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Odd { seen: seen.into(), fix: fix.into() }
    }

    fn bad(seen: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Bad { seen: seen.into(), fix: fix.into() }
    }

    /// What was seen, and the fix.
    fn message(&self) -> String {
        match self {
            Self::Good(seen) => seen.clone(),
            Self::Odd { seen, fix } | Self::Bad { seen, fix } => format!("{seen}; {fix}"),
        }
    }

    /// The line of the check `name`.
    fn line(&self, name: &str) -> String {
        let verdict = match self {
            Self::Good(_) => "ok  ",
            Self::Odd { .. } => "warn",
            Self::Bad { .. } => "FAIL",
        };
        format!("{verdict}  {name}: {}", self.message())
    }
}

impl DoctorArgs {
    /// Makes all checks and prints them on `out`. Whether guests can run.
    ///
    /// # Errors
    /// If they cannot be printed.
    pub async fn run(self, out: &mut impl Write) -> io::Result<bool> {
        let mut can_run = true;
        let mut print = |name: &str, finding: &Finding| {
            can_run &= !matches!(finding, Finding::Bad { .. });
            writeln!(out, "{}", finding.line(name))
        };
        let libvirt = checks::connect(&self.libvirt_uri).await;
        print("libvirt", &checks::libvirt(libvirt.as_ref()).await)?;
        let kvm = kvm::Probe::default().run().await;
        print("KVM", &judge::kvm(&kvm, self.emulation))?;
        if let Ok(libvirt) = &libvirt {
            print("machine types", &checks::machine(libvirt, self.emulation).await)?;
        }
        print("disk space", &checks::space(&self.data_dir))?;
        print("clock", &checks::clock().await)?;
        print("host name", &checks::host_name().await)?;
        print("API server", &checks::api(&self.kubeconfig).await)?;
        Ok(can_run)
    }
}
