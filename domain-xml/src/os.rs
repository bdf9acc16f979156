//! Machine type and firmware tables.

use uuid::Uuid;

use crate::xml::XmlWriter;

/// `<os>`. The guest's SMBIOS table is what `<sysinfo>` says.
pub(crate) fn write_os(xml: &mut XmlWriter, machine_type: &str) {
    xml.element("os").children(|xml| {
        xml.element("type").attribute("arch", "x86_64").attribute("machine", machine_type).text("hvm");
        xml.element("smbios").attribute("mode", "sysinfo").empty();
    });
}

/// `<sysinfo>` with the firmware UUID. libvirt refuses another one than the domain's.
pub(crate) fn write_sysinfo(xml: &mut XmlWriter, firmware_uuid: Uuid) {
    xml.element("sysinfo").attribute("type", "smbios").children(|xml| {
        xml.element("system").children(|xml| xml.element("entry").attribute("name", "uuid").text(firmware_uuid));
    });
}
