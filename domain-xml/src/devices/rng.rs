//! A source of random numbers, so that a guest without other events finishes booting.

use super::place::Place;
use crate::xml::XmlWriter;

/// `<rng model='virtio'>`
pub(crate) fn write(place: &Place<'_>, xml: &mut XmlWriter) {
    xml.element("rng").attribute("model", "virtio").children(|xml| {
        xml.element("backend").attribute("model", "random").text("/dev/urandom");
        place.write(xml);
    });
}
