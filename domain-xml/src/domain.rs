//! The whole domain, and its rendering.

use crate::clock::Clock;
use crate::cpu::{write_cpu, write_memory, write_vcpu};
use crate::devices::Devices;
use crate::features::Features;
use crate::os::{write_os, write_sysinfo};
use crate::text::check_text;
use crate::xml::XmlWriter;
use crate::{DomainInput, DomainName, RenderError};

/// Bytes that a usual domain needs, so that the output is allocated once.
const USUAL_BYTES: usize = 4096;

/// Renders a domain: the document to hand to [`crate::check_allowed`], and then to libvirt.
///
/// # Errors
/// [`RenderError`]. From a validated spec whose volumes have all been prepared, only our own node facts (paths, names, machine type) can cause one.
pub fn render(input: &DomainInput<'_>) -> Result<String, RenderError> {
    let name = DomainName::new(&input.metadata.namespace, &input.metadata.name);
    let machine_type = check_text(&"machine_type", input.machine_type)?;
    let features = Features::make(&input.spec.features, input.acceleration)?;
    let clock = Clock::make(&input.spec.clock)?;
    let devices = Devices::make(input)?;
    input.metadata.check()?;
    let mut xml = XmlWriter::with_capacity(USUAL_BYTES);
    xml.element("domain").attribute("type", input.acceleration.domain_type()).children(|xml| {
        xml.element("name").text(name);
        xml.element("uuid").text(input.firmware_uuid);
        xml.element("metadata").children(|xml| input.metadata.write_in_domain(xml));
        write_memory(xml, input.spec.memory_kib);
        write_vcpu(xml, input.spec.cores);
        write_sysinfo(xml, input.firmware_uuid, input.abi);
        write_os(xml, machine_type);
        features.write(xml);
        write_cpu(xml, input.spec.cores, input.abi.and_then(|abi| abi.cpu_model.as_deref()));
        clock.write(xml);
        // A guest that powers itself off has ended; the controller decides whether another starts. So has a guest that panicked.
        xml.element("on_poweroff").text("destroy");
        xml.element("on_reboot").text("restart");
        xml.element("on_crash").text("destroy");
        devices.write(xml);
    });
    Ok(xml.finish())
}
