//! Memory and processors.
//!
//! There is no `<cputune>`: libvirt refuses to start a guest with one on a host without the cpu cgroup controller, and `limits.cpu` is a bound for
//! placement first. A guest cannot use more than its virtual processors anyhow.
//!
//! libvirt rounds memory up to whole MiB (measured: 977 KiB becomes 1024, 62500 becomes 63488), and QEMU starts with 1 MiB on q35 and on pc, though
//! the firmware needs some 4 MiB to boot from a disk.

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::tests::{Guest, elements};

    #[test]
    fn memory_is_never_below_the_request() {
        for (asked, kib) in
            [("64M", 62500), ("1M", 977), ("5M", 4883), ("1Mi", 1024), ("1", 1), ("1.5Gi", 1_572_864), ("8192Ki", 8192)]
        {
            let guest = Guest::new(&json!({"resources": {"requests": {"memory": asked}}, "devices": {}}), &json!([]));
            assert_eq!(elements(&guest.xml(), "memory"), [format!(r#"<memory unit="KiB">{kib}</memory>"#)], "{asked}");
        }
    }

    #[test]
    fn cores_are_in_one_socket() {
        for (cpu, cores) in [(json!({}), 1), (json!({"cores": 4}), 4)] {
            let xml = Guest::new(&json!({"cpu": cpu, "devices": {}}), &json!([])).xml();
            assert_eq!(elements(&xml, "vcpu"), [format!(r#"<vcpu placement="static">{cores}</vcpu>"#)]);
            assert_eq!(elements(&xml, "topology"), [format!(r#"<topology sockets="1" cores="{cores}" threads="1"/>"#)]);
        }
    }
}
