//! Memory and processors.
//!
//! There is no `<cputune>`: libvirt refuses to start a guest with one on a host without the cpu cgroup controller, and `limits.cpu` is a bound for
//! placement first. A guest cannot use more than its virtual processors anyhow.

use serde::Serialize;

/// `<memory unit='KiB'>`
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    #[serde(rename = "@unit")]
    unit: &'static str,
    #[serde(rename = "$text")]
    kib: u64,
}

/// `<vcpu>`
#[derive(Debug, Serialize)]
pub(crate) struct Vcpu {
    #[serde(rename = "@placement")]
    placement: &'static str,
    #[serde(rename = "$text")]
    count: u32,
}

/// `<cpu>`: no model, which is QEMU's plain 64 bit one: the same on every node. One socket, as in KubeVirt v0.5.0.
#[derive(Debug, Serialize)]
pub(crate) struct Cpu {
    topology: Topology,
}

#[derive(Debug, Serialize)]
struct Topology {
    #[serde(rename = "@sockets")]
    sockets: u32,
    #[serde(rename = "@cores")]
    cores: u32,
    #[serde(rename = "@threads")]
    threads: u32,
}

impl Memory {
    pub(crate) fn make(kib: u64) -> Self {
        Self { unit: "KiB", kib }
    }
}

impl Vcpu {
    pub(crate) fn make(cores: u32) -> Self {
        Self { placement: "static", count: cores }
    }
}

impl Cpu {
    pub(crate) fn make(cores: u32) -> Self {
        Self { topology: Topology { sockets: 1, cores, threads: 1 } }
    }
}
