//! The checks themselves. Each has a deadline, and fails rather than waits.

use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::chain;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use nix::sys::statvfs::statvfs;
use nix::unistd::gethostname;
use plan::node::Emulation;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Finding, judge};
use crate::hypervisor::{Capabilities, Hypervisor};
use crate::libvirt::{ConnectError, Libvirt, LibvirtOptions};

/// How long an answer may take that nobody else sets a deadline for.
const DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn connect(uri: &str) -> Result<Libvirt, ConnectError> {
    Libvirt::connect(LibvirtOptions::new(uri)).await
}

/// Connection, rights and versions.
pub(super) async fn libvirt(connected: Result<&Libvirt, &ConnectError>) -> Finding {
    match connected {
        Err(error) => {
            let fix = "install libvirt-daemon-system, start it (systemctl enable --now libvirtd.socket), and run this as root or as user ovm";
            Finding::bad(chain(error), fix)
        }
        Ok(libvirt) => match libvirt.host_facts().await {
            Ok(host) => judge::versions(libvirt.uri(), host.libvirt, host.hypervisor),
            Err(error) => Finding::bad(chain(&error), judge::RESTART_LIBVIRTD),
        },
    }
}

/// Whether a guest that names no machine type can be run, and as what.
pub(super) async fn machine(libvirt: &Libvirt, emulation: Emulation) -> Finding {
    let hypervisor: Arc<dyn Hypervisor> = Arc::new(libvirt.clone());
    judge::machine(Capabilities::new(hypervisor, emulation).machine(None).await)
}

/// Room where disks are, or will be.
pub(super) fn space(directory: &Path) -> Finding {
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
    match statvfs(existing) {
        Ok(space) => judge::space(&directory.display().to_string(), space.blocks_available() * space.fragment_size()),
        Err(error) => Finding::bad(format!("{}: {error}", existing.display()), "make it readable for user ovm"),
    }
}

/// Whether the host's clock is kept right: certificates and leases go by it.
pub(super) async fn clock() -> Finding {
    let mut command = Command::new("timedatectl");
    let asked = command.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true).output();
    match timeout(DEADLINE, asked).await {
        Ok(Ok(answer)) if answer.stdout.trim_ascii() == b"yes" => Finding::good("synchronized"),
        Ok(Ok(answer)) if answer.stdout.trim_ascii() == b"no" => {
            Finding::odd("not synchronized", "certificates go by it; install and start systemd-timesyncd or chrony")
        }
        _ => Finding::odd(
            "not known: systemd-timedated does not answer",
            "certificates go by it; timedatectl says why, and whether the clock is right",
        ),
    }
}

/// Whether the host resolves its own name.
pub(super) async fn host_name() -> Finding {
    let Some(name) = gethostname().ok().and_then(|name| name.into_string().ok()) else {
        return Finding::bad("this host has no name", "set one with hostnamectl");
    };
    let begun = Instant::now();
    let asked = name.clone();
    let resolving = spawn_blocking(move || (asked.as_str(), 0).to_socket_addrs().is_ok());
    let resolved = matches!(timeout(DEADLINE, resolving).await, Ok(Ok(true)));
    judge::host_name(&name, resolved.then(|| begun.elapsed()))
}

/// Whether the API server answers, and as whom it takes the agent.
pub(super) async fn api(kubeconfig: &Path) -> Finding {
    if !kubeconfig.exists() {
        let why = format!("not configured: there is no {}", kubeconfig.display());
        return Finding::good(format!("{why}; ovm-agent join makes it where this host is to join a cluster"));
    }
    match timeout(DEADLINE, who_am_i(kubeconfig)).await {
        Ok(Ok((server, user))) => Finding::good(format!("{server} takes this host as {user}")),
        Ok(Err(why)) => Finding::bad(
            why,
            format!(
                "check that {} names the server, and that this host reaches it; if its certificate has ended, ovm-agent join with a new token",
                kubeconfig.display()
            ),
        ),
        Err(_) => {
            Finding::bad("no answer within 10 s", format!("check the server's address in {}", kubeconfig.display()))
        }
    }
}

async fn who_am_i(kubeconfig: &Path) -> Result<(String, String), String> {
    let read = Kubeconfig::read_from(kubeconfig).map_err(|error| chain(&error))?;
    let config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .map_err(|error| chain(&error))?;
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| chain(&error))?;
    let reviews: Api<SelfSubjectReview> = Api::all(client);
    let review = reviews.create(&PostParams::default(), &SelfSubjectReview::default()).await;
    let status = review.map_err(|error| format!("{server}: {}", chain(&error)))?.status.unwrap_or_default();
    let user = status.user_info.and_then(|user| user.username).unwrap_or_else(|| "nobody".to_owned());
    Ok((server, user))
}
