//! The whole domain, and its rendering.

use serde::Serialize;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use crate::clock::Clock;
use crate::cpu::{Cpu, Memory, Vcpu};
use crate::devices::Devices;
use crate::features::Features;
use crate::metadata::MetadataElement;
use crate::os::{Os, SysInfo};
use crate::text::check_text;
use crate::{DomainInput, DomainName, RenderError};

/// Bytes that a usual domain needs, so that the output grows once.
const USUAL_BYTES: usize = 4096;

/// `<domain>`
#[derive(Serialize)]
#[serde(rename = "domain")]
struct Domain<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    name: &'a str,
    uuid: &'a str,
    metadata: MetadataBlock<'a>,
    memory: Memory,
    vcpu: Vcpu,
    sysinfo: SysInfo<'a>,
    os: Os<'a>,
    features: Features<'a>,
    cpu: Cpu,
    clock: Clock<'a>,
    /// A guest that powers itself off has ended; the controller decides whether another starts.
    on_poweroff: &'static str,
    on_reboot: &'static str,
    /// A panicked guest ends as crashed; its successor is a new one.
    on_crash: &'static str,
    devices: Devices<'a>,
}

/// `<metadata>`
#[derive(Serialize)]
struct MetadataBlock<'a> {
    #[serde(rename = "kubevirt:vm")]
    ours: MetadataElement<'a>,
}

/// Renders a domain: the document to hand to [`crate::check_allowed`], and then to libvirt.
///
/// # Errors
/// [`RenderError`]. From a validated spec whose volumes have all been prepared, only our own node facts (paths, names, machine type) can cause one.
pub fn render(input: &DomainInput<'_>) -> Result<String, RenderError> {
    let name = DomainName::new(&input.metadata.namespace, &input.metadata.name);
    let mut buffer = Uuid::encode_buffer();
    let uuid: &str = Hyphenated::from_uuid(input.firmware_uuid).encode_lower(&mut buffer);
    input.metadata.check()?;
    let domain = Domain {
        kind: input.acceleration.domain_type(),
        name: name.as_str(),
        uuid,
        metadata: MetadataBlock { ours: input.metadata.in_domain() },
        memory: Memory::make(input.spec.memory_kib),
        vcpu: Vcpu::make(input.spec.cores),
        sysinfo: SysInfo::make(uuid),
        os: Os::make(check_text(&"machine_type", input.machine_type)?),
        features: Features::make(&input.spec.features, input.acceleration)?,
        cpu: Cpu::make(input.spec.cores),
        clock: Clock::make(&input.spec.clock)?,
        on_poweroff: "destroy",
        on_reboot: "restart",
        on_crash: "destroy",
        devices: Devices::make(input)?,
    };
    let mut xml = String::with_capacity(USUAL_BYTES);
    quick_xml::se::to_writer(&mut xml, &domain).map_err(RenderError::Write)?;
    Ok(xml)
}
