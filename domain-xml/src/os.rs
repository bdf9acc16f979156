//! Machine type and firmware tables.

use uuid::Uuid;

use crate::GuestAbi;
use crate::xml::XmlWriter;

/// `<os>`. The guest's SMBIOS table is what `<sysinfo>` says.
pub(crate) fn write_os(xml: &mut XmlWriter, machine_type: &str) {
    xml.element("os").children(|xml| {
        xml.element("type").attribute("arch", "x86_64").attribute("machine", machine_type).text("hvm");
        xml.element("smbios").attribute("mode", "sysinfo").empty();
    });
}

/// `<sysinfo>` with the firmware UUID. libvirt refuses another one than the domain's.
///
/// A guest's first serial number is that UUID. The record keeps it, as many a licence is bound to it, should the user give another UUID later.
pub(crate) fn write_sysinfo(xml: &mut XmlWriter, firmware_uuid: Uuid, abi: Option<&GuestAbi>) {
    let serial = abi.map_or_else(|| Some(firmware_uuid.to_string()), |abi| abi.serial.clone());
    xml.element("sysinfo").attribute("type", "smbios").children(|xml| {
        xml.element("system").children(|xml| {
            if let Some(serial) = serial {
                xml.element("entry").attribute("name", "serial").text(serial);
            }
            xml.element("entry").attribute("name", "uuid").text(firmware_uuid);
        });
    });
}
