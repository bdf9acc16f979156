//! The memory balloon. libvirt adds one where nothing is said; saying it gives it an alias of ours.

use super::alias::Alias;
use crate::xml::XmlWriter;

/// `<memballoon model='virtio'/>`
pub(crate) fn write(xml: &mut XmlWriter) {
    xml.element("memballoon").attribute("model", "virtio").children(|xml| Alias::of("balloon0").write(xml));
}
