//! Memory and processors.
//!
//! There is no `<cputune>`: libvirt refuses to start a guest with one on a host without the cpu cgroup controller, and `limits.cpu` is a bound for
//! placement first. A guest cannot use more than its virtual processors anyhow.
//!
//! libvirt rounds memory up to whole MiB (measured: 977 KiB becomes 1024, 62500 becomes 63488), and QEMU starts with 1 MiB on q35 and on pc, though
//! the firmware needs some 4 MiB to boot from a disk.

use crate::xml::XmlWriter;

/// `<memory>`
pub(crate) fn write_memory(xml: &mut XmlWriter, kib: u64) {
    xml.element("memory").attribute("unit", "KiB").text(kib);
}

/// `<vcpu>`
pub(crate) fn write_vcpu(xml: &mut XmlWriter, cores: u32) {
    xml.element("vcpu").attribute("placement", "static").text(cores);
}

/// `<cpu>`: at first no model, which is QEMU's plain 64 bit one: the same on every node. Then the one on record. One socket, as in KubeVirt v0.5.0.
pub(crate) fn write_cpu(xml: &mut XmlWriter, cores: u32, model: Option<&str>) {
    let cpu = xml.element("cpu").optional("mode", model.map(|_| "custom"));
    cpu.optional("match", model.map(|_| "exact")).optional("check", model.map(|_| "none")).children(|xml| {
        if let Some(model) = model {
            xml.element("model").attribute("fallback", "forbid").text(model);
        }
        xml.element("topology").attribute("sockets", 1).attribute("cores", cores).attribute("threads", 1).empty();
    });
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
