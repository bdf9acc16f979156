//! The device through which a guest says that its kernel panicked; without it such a guest runs on for ever.

use super::place::Place;
use crate::xml::XmlWriter;

/// `<panic model='isa'/>`: pvpanic at port 0x505, for which Linux and Windows have drivers.
pub(crate) fn write(place: &Place<'_>, xml: &mut XmlWriter) {
    xml.element("panic").attribute("model", "isa").children(|xml| place.write(xml));
}
