//! The serial console: a pty of libvirt's, opened through libvirt's own socket, and copied to a file.
//!
//! libvirt adds the matching `<console>` itself.

use super::alias::Alias;
use crate::text::check_path;
use crate::xml::XmlWriter;
use crate::{DomainInput, RenderError};

/// `<serial type='pty'>`
#[derive(Debug)]
pub(crate) struct Serial<'a> {
    log: &'a str,
}

impl<'a> Serial<'a> {
    pub(crate) fn make(input: &DomainInput<'a>) -> Result<Self, RenderError> {
        Ok(Self { log: check_path(&"console_log", input.console_log)? })
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        xml.element("serial").attribute("type", "pty").children(|xml| {
            // A guest that is started again keeps what it printed before.
            xml.element("log").attribute("file", self.log).attribute("append", "on").empty();
            // ttyS0, COM1.
            xml.element("target").attribute("type", "isa-serial").attribute("port", 0).empty();
            Alias::of("serial0").write(xml);
        });
    }
}
