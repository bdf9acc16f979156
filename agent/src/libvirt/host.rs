//! Calls about the host: what it is, and what kind of guest its QEMU can run.

use std::fmt;

use serde::Deserialize;
use uuid::Uuid;

use super::Libvirt;
use super::connection::Connection;
use super::error::{Error, Failure, Target};

/// What libvirt says about the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// The host's own UUID, from its firmware; `None` where that is missing or useless.
    pub uuid: Option<Uuid>,
    /// The host's architecture, such as `x86_64`.
    pub arch: String,
    /// What is behind libvirt: `QEMU`, or `TEST` for libvirt's test driver.
    pub driver: String,
    /// The daemon's version.
    pub libvirt: Version,
    /// The hypervisor's version; `None` where libvirt finds no emulator.
    pub hypervisor: Option<Version>,
    /// The host's memory.
    pub memory_kib: u64,
    /// The host's online CPUs.
    pub cpus: u32,
}

/// A version number as libvirt packs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
    /// The third number.
    pub release: u32,
}

/// How a guest's CPUs are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VirtType {
    /// By the processor, through `/dev/kvm`.
    Kvm,
    /// By QEMU's emulation (TCG).
    Qemu,
}

/// Whether libvirt can run a kind of guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usability {
    /// It can, in this way.
    Usable(EmulatorFacts),
    /// It cannot, for this reason, in libvirt's words. Usable KVM is what libvirt believes: a `/dev/kvm` that hangs is usable to it.
    Unusable(String),
}

/// How libvirt runs a kind of guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatorFacts {
    /// The emulator's path on the host.
    pub path: String,
    /// The machine type with its version, such as `pc-q35-10.0` for `q35`.
    pub machine: String,
    /// The guest's architecture.
    pub arch: String,
    /// The most virtual CPUs that the machine can have; `None` if libvirt does not say.
    pub max_vcpus: Option<u32>,
    /// The disk buses that the machine has, such as `sata`, in libvirt's words and order.
    pub disk_buses: Vec<String>,
}

/// The part of libvirt's capabilities that we read. https://libvirt.org/formatcaps.html
#[derive(Deserialize)]
struct CapabilitiesXml {
    host: HostXml,
    #[serde(rename = "guest", default)]
    guests: Vec<GuestXml>,
}

#[derive(Deserialize)]
struct GuestXml {
    os_type: String,
    arch: ArchXml,
}

#[derive(Deserialize)]
struct ArchXml {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "machine", default)]
    machines: Vec<MachineXml>,
}

#[derive(Deserialize)]
struct MachineXml {
    /// What an alias stands for.
    #[serde(rename = "@canonical")]
    canonical: Option<String>,
    #[serde(rename = "$text")]
    name: String,
}

#[derive(Deserialize)]
struct HostXml {
    uuid: Option<String>,
    cpu: CpuXml,
}

#[derive(Deserialize)]
struct CpuXml {
    arch: String,
}

/// The part of libvirt's domain capabilities that we read. https://libvirt.org/formatdomaincaps.html
#[derive(Deserialize)]
struct DomainCapabilitiesXml {
    path: String,
    machine: String,
    arch: String,
    vcpu: Option<VcpuXml>,
    devices: Option<DevicesXml>,
}

#[derive(Deserialize)]
struct VcpuXml {
    #[serde(rename = "@max")]
    max: Option<u32>,
}

#[derive(Deserialize)]
struct DevicesXml {
    disk: Option<DeviceXml>,
}

#[derive(Deserialize)]
struct DeviceXml {
    #[serde(rename = "enum", default)]
    enums: Vec<EnumXml>,
}

#[derive(Deserialize)]
struct EnumXml {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "value", default)]
    values: Vec<String>,
}

impl Libvirt {
    /// What libvirt says about the host.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn host_facts(&self) -> Result<HostFacts, Error> {
        self.call("read facts of", Target::Host, self.options().start_deadline, read_host_facts).await
    }

    /// The machine types that this host offers to guests of an architecture, with their versions and without aliases, sorted.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn machine_types(&self, arch: &str) -> Result<Vec<String>, Error> {
        let arch = arch.to_owned();
        let read = move |connection: &Connection| {
            parse_capabilities(&connection.connect().capabilities()?)
                .map(|capabilities| machine_types(capabilities, &arch))
        };
        self.call("read machine types of", Target::Host, self.options().start_deadline, read).await
    }

    /// Whether and how this host runs guests of this kind. `machine` may be an alias, such as `q35`; the answer holds its versioned name.
    ///
    /// The first call on a fresh libvirtd takes about 5 s: libvirt asks QEMU what it can do.
    ///
    /// # Errors
    /// See [`Error`]. An impossible kind of guest is no error, but [`Usability::Unusable`].
    pub async fn emulator(&self, arch: &str, virt_type: VirtType, machine: &str) -> Result<Usability, Error> {
        let (arch, machine) = (arch.to_owned(), machine.to_owned());
        let read = move |connection: &Connection| read_emulator(connection, &arch, virt_type, &machine);
        self.call("read emulators of", Target::Host, self.options().start_deadline, read).await
    }
}

fn read_host_facts(connection: &Connection) -> Result<HostFacts, Failure> {
    let connect = connection.connect();
    let capabilities = parse_capabilities(&connect.capabilities()?)?;
    let node = connect.node_info()?;
    Ok(HostFacts {
        uuid: capabilities.host.uuid.and_then(|uuid| uuid.parse().ok()),
        arch: capabilities.host.cpu.arch,
        driver: connection.driver().to_owned(),
        libvirt: Version::from_raw(connect.lib_version()?),
        hypervisor: connect.hyp_version().ok().map(Version::from_raw),
        memory_kib: node.memory,
        cpus: node.cpus,
    })
}

fn read_emulator(
    connection: &Connection,
    arch: &str,
    virt_type: VirtType,
    machine: &str,
) -> Result<Usability, Failure> {
    if arch.contains('\0') || machine.contains('\0') {
        // virt would panic on it.
        return Ok(Usability::Unusable("a name that holds a NUL character".to_owned()));
    }
    let connect = connection.connect();
    let capabilities = connect.domain_capabilities(None, Some(arch), Some(machine), Some(virt_type.name()), 0);
    match capabilities.map_err(Failure::from) {
        Ok(xml) => parse_domain_capabilities(&xml).map(Usability::Usable),
        Err(failure) if failure.is_unsupported() => Ok(Usability::Unusable(failure.message)),
        Err(failure) => Err(failure),
    }
}

fn parse_capabilities(xml: &str) -> Result<CapabilitiesXml, Failure> {
    quick_xml::de::from_str(xml).map_err(|error| Failure::internal(format!("unreadable capabilities: {error}")))
}

fn machine_types(capabilities: CapabilitiesXml, arch: &str) -> Vec<String> {
    let guests = capabilities.guests.into_iter().filter(|guest| guest.os_type == "hvm" && guest.arch.name == arch);
    let machines = guests.flat_map(|guest| guest.arch.machines).filter(|machine| machine.canonical.is_none());
    // A machine without version never changes its name, and is of no use as a promise.
    let mut names: Vec<_> = machines.map(|machine| machine.name).filter(|name| name.contains('-')).collect();
    names.sort();
    names.dedup();
    names
}

fn parse_domain_capabilities(xml: &str) -> Result<EmulatorFacts, Failure> {
    let unreadable = |error| Failure::internal(format!("unreadable domain capabilities: {error}"));
    let parsed: DomainCapabilitiesXml = quick_xml::de::from_str(xml).map_err(unreadable)?;
    let disk_enums = parsed.devices.and_then(|devices| devices.disk).map(|disk| disk.enums).unwrap_or_default();
    let bus = disk_enums.into_iter().find(|candidate| candidate.name == "bus");
    Ok(EmulatorFacts {
        path: parsed.path,
        machine: parsed.machine,
        arch: parsed.arch,
        max_vcpus: parsed.vcpu.and_then(|vcpu| vcpu.max),
        disk_buses: bus.map(|bus| bus.values).unwrap_or_default(),
    })
}

impl Version {
    /// The value for libvirt's number: major * 1,000,000 + minor * 1,000 + release.
    fn from_raw(raw: u32) -> Self {
        Self { major: raw / 1_000_000, minor: raw / 1_000 % 1_000, release: raw % 1_000 }
    }
}

impl VirtType {
    /// libvirt's word for it, as in `<domain type='kvm'>`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domain_capabilities_give_the_versioned_machine_and_the_buses() {
        let xml = "<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>qemu</domain>\
            <machine>pc-q35-10.0</machine><arch>x86_64</arch><vcpu max='4096'/><iothreads supported='yes'/>\
            <devices><disk supported='yes'><enum name='diskDevice'><value>disk</value></enum>\
            <enum name='bus'><value>fdc</value><value>sata</value></enum></disk></devices></domainCapabilities>";
        let facts = parse_domain_capabilities(xml).unwrap();
        assert_eq!(facts.machine, "pc-q35-10.0");
        assert_eq!(facts.max_vcpus, Some(4096));
        assert_eq!(facts.disk_buses, ["fdc", "sata"]);
    }

    #[test]
    fn machine_types_are_those_of_the_architecture_without_aliases() {
        let xml = "<capabilities><host><cpu><arch>x86_64</arch></cpu></host>\
            <guest><os_type>hvm</os_type><arch name='i686'><machine>pc-i440fx-1.0</machine></arch></guest>\
            <guest><os_type>hvm</os_type><arch name='x86_64'><wordsize>64</wordsize><machine maxCpus='288'>pc-q35-9.2</machine>\
            <machine canonical='pc-q35-10.0' maxCpus='288'>q35</machine><machine>pc-q35-10.0</machine><machine>microvm</machine>\
            <domain type='qemu'/></arch></guest></capabilities>";
        let parsed = parse_capabilities(xml).map_err(|failure| failure.message).unwrap();
        assert_eq!(machine_types(parsed, "x86_64"), ["pc-q35-10.0", "pc-q35-9.2"]);
    }

    #[test]
    fn a_version_is_unpacked_as_libvirt_documents_it() {
        let version = Version::from_raw(11_003_000);
        assert_eq!(version.to_string(), "11.3.0");
        assert!(version < Version::from_raw(11_010_002));
    }
}
