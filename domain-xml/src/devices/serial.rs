//! The serial console: a pty of libvirt's, opened through libvirt's own socket, and copied to a file.
//!
//! libvirt adds the matching `<console>` itself.

use serde::Serialize;

use super::alias::Alias;
use crate::text::check_path;
use crate::{DomainInput, RenderError};

/// `<serial type='pty'>`
#[derive(Debug, Serialize)]
pub(crate) struct Serial<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    log: Log<'a>,
    target: Target,
    alias: Alias,
}

/// `<log file='...' append='on'/>`: a guest that is started again keeps what it printed before.
#[derive(Debug, Serialize)]
struct Log<'a> {
    #[serde(rename = "@file")]
    file: &'a str,
    #[serde(rename = "@append")]
    append: &'static str,
}

/// `<target type='isa-serial' port='0'/>`: ttyS0, COM1.
#[derive(Debug, Serialize)]
struct Target {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@port")]
    port: u32,
}

impl<'a> Serial<'a> {
    pub(crate) fn make(input: &DomainInput<'a>) -> Result<Self, RenderError> {
        Ok(Self {
            kind: "pty",
            log: Log { file: check_path(&"console_log", input.console_log)?, append: "on" },
            target: Target { kind: "isa-serial", port: 0 },
            alias: Alias::of("serial0"),
        })
    }
}
