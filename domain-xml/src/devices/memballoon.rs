//! The memory balloon. libvirt adds one where nothing is said; saying it gives it an alias of ours.

use super::place::Place;
use crate::xml::XmlWriter;

/// `<memballoon model='virtio'/>`
pub(crate) fn write(place: &Place<'_>, xml: &mut XmlWriter) {
    xml.element("memballoon").attribute("model", "virtio").children(|xml| place.write(xml));
}
