//! What can go wrong, in the words of KubeVirt v0.5.0 where it had any: scripts match them.

use std::error::Error as StdError;
use std::path::PathBuf;

use api::chain;

/// A command that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot start the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("kubeconfig{}", at(.path.as_ref()))]
    Kubeconfig {
        path: Option<PathBuf>,
        #[source]
        source: kube::config::KubeconfigError,
    },
    #[error("no kubeconfig: none at {0}; set KUBECONFIG, or give --kubeconfig FILE")]
    NoKubeconfig(String),
    #[error("--{flag} '{value}' is not usable: {reason}")]
    Flag { flag: &'static str, value: String, reason: String },
    #[error("cannot use these credentials")]
    Client(#[source] kube::Error),
    #[error("{0}")]
    Usage(String),
    #[error("Error fetching OfflineVirtualMachine: {0}")]
    FetchOvm(String),
    #[error("Error updating OfflineVirtualMachine: {0}")]
    UpdateOvm(String),
    #[error("Error fetching VirtualMachine: {0}")]
    FetchVm(String),
    #[error(
        "OfflineVirtualMachine '{0}' has no ABI record: its guest has not been started yet, or the records were reset"
    )]
    NoRecord(String),
    #[error("ControllerRevision {name}")]
    Record {
        name: String,
        #[source]
        source: api::abi::RecordError,
    },
    #[error("Error accessing ABI records: {0}")]
    Records(String),
    #[error("Error deleting VirtualMachine: {0}")]
    DeleteVm(String),
    #[error("Error cordoning node {node}: {reason}")]
    Cordon { node: String, reason: String },
    #[error(
        "node {node} has virtual machines without an OfflineVirtualMachine, which nothing starts again (use --force to stop them): {names}"
    )]
    BareVms { node: String, names: String },
    #[error(
        "node {node} is not drained after {seconds} s, and stays cordoned (run the same again to go on waiting); still there: {left}"
    )]
    NotDrained { node: String, seconds: u64, left: String },
    #[error("Error: VirtualMachine '{name}' is already {state}")]
    Already { name: String, state: &'static str },
    #[error("Error: VirtualMachine '{0}' is stopped; start it with: virtctl start {0}")]
    Stopped(String),
    #[error("{reason}")]
    Refused { status: http::StatusCode, reason: String },
    #[error("cannot connect to the {channel} of VirtualMachine '{name}': {reason}")]
    Connect { channel: &'static str, name: String, reason: String },
    #[error("console of VirtualMachine '{name}'")]
    Stream {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("display of VirtualMachine '{name}'")]
    Display {
        name: String,
        #[source]
        source: std::io::Error,
    },
    #[error("no viewer found (looked for {0}); install one, or connect your own to: virtctl vnc --proxy-only {1}")]
    NoViewer(String, String),
    #[error("run {program}")]
    Viewer {
        program: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot set the terminal to raw mode")]
    Terminal(#[source] nix::errno::Errno),
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// Ended by a signal, whose number this is.
    #[error("ended by signal {0}")]
    Signalled(u8),
    #[error("cannot ask for the server's version: {0}")]
    Version(String),
    #[error("cannot print the versions: {0}")]
    PrintVersion(String),
    #[error(
        "the API server at {0} knows no subresources.kubevirt.io/v1alpha1: ovm-controller is not installed there (kubectl apply -k manifests/base)"
    )]
    NotInstalled(http::Uri),
    #[error(
        "ovm-controller or ovm-standalone at {0} does not tell its version: it is older than this program; upgrade it"
    )]
    OldServer(http::Uri),
    #[error(
        "the API server at {server} does not reach ovm-controller: {reason}; `kubectl get apiservice v1alpha1.subresources.kubevirt.io` says why"
    )]
    ControllerAway { server: http::Uri, reason: String },
    #[error("--ttl {0} s is not usable: give 1m or more, and at most a year")]
    Ttl(u64),
    #[error(transparent)]
    NodeName(#[from] api::join::NodeNameError),
    #[error("'{0}' is no token: give the part before its dot, as `virtctl token list` shows it")]
    TokenId(String),
    #[error("cannot get random bytes from {path}")]
    Random {
        path: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{operation}: {reason}")]
    Token { operation: &'static str, reason: String },
    #[error(
        "the kubeconfig names no certificate authority (certificate-authority-data), by whose hash a host that joins knows the cluster; use one that does"
    )]
    NoAuthority,
    #[error("ConfigMap kube-public/cluster-info holds no usable certificate authority: {0}")]
    ClusterInfo(String),
}

fn at(path: Option<&PathBuf>) -> String {
    path.map_or_else(String::new, |path| format!(" {}", path.display()))
}

/// What the API server said, or why it could not be asked.
pub(crate) fn api_message(error: &kube::Error, server: &http::Uri) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::Service(_) | kube::Error::HyperError(_) => {
            format!("cannot reach the API server at {server}: {}", root_cause(error))
        }
        other => chain(other),
    }
}

/// The innermost error: the layers between say only that something below failed.
fn root_cause(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
