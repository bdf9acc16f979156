//! The programs that a scenario tests, whichever API they work with.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::libvirtd::Signal;
use crate::programs::last_lines;
use crate::scenario::Api;
use crate::separate::Separate;
use crate::standalone::Standalone;

/// `ovm-standalone`, or `ovm-controller` and `ovm-agent`.
#[derive(Debug)]
pub enum Server {
    /// All in one process, API included.
    Standalone(Standalone),
    /// On a real API.
    Separate(Box<Separate>),
}

impl Server {
    /// Starts what the API asks for. `base` is a directory that exists; the data is in `base/data`.
    ///
    /// # Errors
    /// When it is not ready in time; the message then carries its log.
    pub fn start(api: Api, base: &Path, libvirt_uri: &str) -> Result<Self> {
        match api {
            Api::Standalone => Standalone::start(&base.join("data"), libvirt_uri).map(Self::Standalone),
            Api::Kubernetes => Ok(Self::Separate(Box::new(Separate::start(base, libvirt_uri)?))),
        }
    }

    /// Starts it after [`Self::stop`], on the same address and data.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start_again(&mut self) -> Result<()> {
        match self {
            Self::Standalone(server) => server.start_again(),
            Self::Separate(server) => server.start_again(),
        }
    }

    /// Ends every process of ours by a signal, and waits until they are gone.
    ///
    /// # Errors
    /// When it is not running, or does not end in time.
    pub fn stop(&mut self, signal: Signal) -> Result<()> {
        match self {
            Self::Standalone(server) => server.stop(signal),
            Self::Separate(server) => server.stop(signal),
        }
    }

    /// Ends it and starts it again.
    ///
    /// # Errors
    /// When either fails.
    pub fn restart(&mut self, signal: Signal) -> Result<()> {
        self.stop(signal)?;
        self.start_again()
    }

    /// The one process that it is.
    ///
    /// # Errors
    /// When it is two, on a real API.
    pub fn standalone(&self) -> Result<&Standalone> {
        match self {
            Self::Standalone(server) => Ok(server),
            Self::Separate(_) => bail!("this needs ovm-standalone, not the programs of a cluster"),
        }
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Standalone(server) => server.kubeconfig(),
            Self::Separate(server) => server.client().kubeconfig().to_owned(),
        }
    }

    /// The data directory of the node's agent.
    pub fn data(&self) -> &Path {
        match self {
            Self::Standalone(server) => server.data(),
            Self::Separate(server) => server.data(),
        }
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        match self {
            Self::Standalone(server) => last_lines(&server.log()),
            Self::Separate(server) => server.log(),
        }
    }
}
