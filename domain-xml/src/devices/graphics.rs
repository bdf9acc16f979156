//! The screen's VNC server. It listens nowhere: the agent gets its socket through `virDomainOpenGraphicsFD`.

use crate::xml::XmlWriter;

/// `<graphics type='vnc'><listen type='none'/></graphics>`
pub(crate) fn write(xml: &mut XmlWriter) {
    xml.element("graphics")
        .attribute("type", "vnc")
        .children(|xml| xml.element("listen").attribute("type", "none").empty());
}
