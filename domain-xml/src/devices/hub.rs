//! A USB hub on record: libvirt adds one where a guest has more USB devices than ports, and they keep their ports only while it is there.

use crate::DeviceAddress;
use crate::xml::XmlWriter;

/// `<hub type='usb'>`
pub(crate) fn write(address: &DeviceAddress, xml: &mut XmlWriter) {
    xml.element("hub").attribute("type", "usb").children(|xml| address.write(xml));
}
