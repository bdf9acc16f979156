//! Machine type and firmware tables.

use serde::Serialize;

/// `<os>`
#[derive(Debug, Serialize)]
pub(crate) struct Os<'a> {
    #[serde(rename = "type")]
    kind: OsType<'a>,
    smbios: Smbios,
}

#[derive(Debug, Serialize)]
struct OsType<'a> {
    #[serde(rename = "@arch")]
    arch: &'static str,
    #[serde(rename = "@machine")]
    machine: &'a str,
    #[serde(rename = "$text")]
    kind: &'static str,
}

/// `<smbios mode='sysinfo'/>`: the guest reads what `<sysinfo>` says.
#[derive(Debug, Serialize)]
struct Smbios {
    #[serde(rename = "@mode")]
    mode: &'static str,
}

/// `<sysinfo type='smbios'>` with the firmware UUID. libvirt refuses another one than the domain's.
#[derive(Debug, Serialize)]
pub(crate) struct SysInfo<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    system: System<'a>,
}

#[derive(Debug, Serialize)]
struct System<'a> {
    entry: Entry<'a>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    #[serde(rename = "@name")]
    name: &'static str,
    #[serde(rename = "$text")]
    value: &'a str,
}

impl<'a> Os<'a> {
    pub(crate) fn make(machine: &'a str) -> Self {
        Self { kind: OsType { arch: "x86_64", machine, kind: "hvm" }, smbios: Smbios { mode: "sysinfo" } }
    }
}

impl<'a> SysInfo<'a> {
    pub(crate) fn make(uuid: &'a str) -> Self {
        Self { kind: "smbios", system: System { entry: Entry { name: "uuid", value: uuid } } }
    }
}
