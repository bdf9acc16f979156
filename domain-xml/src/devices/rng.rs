//! A source of random numbers, so that a guest without other events finishes booting.

use super::alias::Alias;
use crate::xml::XmlWriter;

/// `<rng model='virtio'>`
pub(crate) fn write(xml: &mut XmlWriter) {
    xml.element("rng").attribute("model", "virtio").children(|xml| {
        xml.element("backend").attribute("model", "random").text("/dev/urandom");
        Alias::of("rng0").write(xml);
    });
}
