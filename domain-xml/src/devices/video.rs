//! The graphics card: plain VGA, as in KubeVirt v0.5.0. Its memory costs the host only what the guest touches.

use super::place::Place;
use crate::xml::XmlWriter;

/// KubeVirt v0.5.0's size.
const VRAM_KIB: u32 = 16384;

/// `<video>`
pub(crate) fn write(place: &Place<'_>, xml: &mut XmlWriter) {
    xml.element("video").children(|xml| {
        xml.element("model").attribute("type", "vga").attribute("vram", VRAM_KIB).attribute("heads", 1).empty();
        place.write(xml);
    });
}
