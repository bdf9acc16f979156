//! The last look before libvirt: every element, attribute and path of a rendered domain against a list of what may be there.
//!
//! It trusts neither the writer nor its types. libvirt's `define` takes `qemu:commandline`, which hands QEMU any option, and as root it attaches any
//! path of the host: a slip in the writer would be a way out of the guest. So what is not listed in [`rules`] is refused: elements, attributes,
//! values where few make sense, and paths outside of the directories that the agent gives. Comments, entities, processing instructions and
//! document types are refused as such.

mod rules;

use std::path::{Path, PathBuf};

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use thiserror::Error;

use self::rules::{DOMAIN, Rule, Value};

/// Where the paths of a domain may lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedPaths {
    /// Directories below which disks that are files lie: ours, and the volume roots that the operator lists.
    pub disk_dirs: Vec<PathBuf>,
    /// Directories below which disks that are block devices lie, and such devices themselves: the volume roots that the operator lists.
    pub block_devices: Vec<PathBuf>,
    /// Directories below which console logs lie.
    pub log_dirs: Vec<PathBuf>,
    /// QEMU's binary, exactly.
    pub emulator: PathBuf,
}

/// What was found in a domain that may not be there.
#[derive(Debug, Error)]
pub enum NotAllowed {
    /// The document is not well-formed.
    #[error("check domain XML")]
    Syntax(#[source] quick_xml::Error),
    /// Something else than elements, attributes and text.
    #[error("domain XML has {what} in {element:?}")]
    Markup {
        /// What it is.
        what: &'static str,
        /// The path of the element that it is in.
        element: String,
    },
    /// An element that is not listed.
    #[error("domain XML may not have element {element:?}")]
    Element {
        /// Its path.
        element: String,
    },
    /// An attribute that is not listed.
    #[error("domain XML may not have attribute {attribute:?} of {element:?}")]
    Attribute {
        /// Name of the attribute.
        attribute: String,
        /// The element's path.
        element: String,
    },
    /// A value that is not listed, or a path outside of the allowed ones.
    #[error("domain XML may not have {value:?} in {place:?}")]
    Value {
        /// The value.
        value: String,
        /// The element's path, and `@` and the attribute's name if it is one's.
        place: String,
    },
}

impl NotAllowed {
    /// One word for conditions, events and metric labels.
    pub fn reason(&self) -> &'static str {
        "DomainXmlNotAllowed"
    }
}

/// Walks a rendered domain against the list.
///
/// # Errors
/// [`NotAllowed`]: the first thing that is not listed.
pub fn check_allowed(xml: &str, paths: &AllowedPaths) -> Result<(), NotAllowed> {
    let mut walk = Walk { paths, open: Vec::with_capacity(8), done: false };
    let mut reader = Reader::from_str(xml);
    loop {
        match reader.read_event().map_err(NotAllowed::Syntax)? {
            Event::Start(start) => walk.enter(&start)?,
            Event::Empty(start) => {
                walk.enter(&start)?;
                walk.leave()?;
            }
            Event::End(_) => walk.leave()?,
            Event::Text(text) => walk.text(&text.xml10_content())?,
            Event::GeneralRef(reference) => match reference.xml10_content().as_ref() {
                "lt" => walk.text("<")?,
                "gt" => walk.text(">")?,
                "amp" => walk.text("&")?,
                "quot" => walk.text("\"")?,
                "apos" => walk.text("'")?,
                _ => return Err(walk.markup("an entity")),
            },
            Event::CData(_) => return Err(walk.markup("a CDATA section")),
            Event::Comment(_) => return Err(walk.markup("a comment")),
            Event::Decl(_) => return Err(walk.markup("an XML declaration")),
            Event::PI(_) => return Err(walk.markup("a processing instruction")),
            Event::DocType(_) => return Err(walk.markup("a document type")),
            Event::Eof => break,
        }
    }
    if walk.done { Ok(()) } else { Err(walk.markup("no end")) }
}

/// Where in the document the walk is.
struct Walk<'a> {
    paths: &'a AllowedPaths,
    /// The open elements, outermost first, each with its text so far.
    open: Vec<(&'static Rule, String)>,
    /// The root element has ended.
    done: bool,
}

impl Walk<'_> {
    fn enter(&mut self, start: &BytesStart<'_>) -> Result<(), NotAllowed> {
        let name = start.name();
        let rule = match self.open.last() {
            Some((parent, _)) => parent.children.iter().find(|child| child.name == name.as_ref()).copied(),
            None if self.done => None,
            None => Some(&DOMAIN).filter(|root| root.name == name.as_ref()),
        };
        let Some(rule) = rule else {
            return Err(NotAllowed::Element { element: format!("{}/{}", self.path(), name.as_ref()) });
        };
        self.open.push((rule, String::new()));
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| NotAllowed::Syntax(error.into()))?;
            let key = attribute.key.as_ref();
            let Some((_, allowed)) = rule.attributes.iter().find(|(name, _)| *name == key) else {
                return Err(NotAllowed::Attribute { attribute: key.to_owned(), element: self.path() });
            };
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(NotAllowed::Syntax)?;
            if !self.allows(*allowed, &value) {
                return Err(NotAllowed::Value { value: value.into_owned(), place: format!("{}@{key}", self.path()) });
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), NotAllowed> {
        if let Some((rule, text)) = self.open.last()
            && !self.allows(rule.text, text)
        {
            return Err(NotAllowed::Value { value: text.clone(), place: self.path() });
        }
        self.open.pop();
        self.done = self.open.is_empty();
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), NotAllowed> {
        match self.open.last_mut() {
            Some((_, so_far)) => so_far.push_str(text),
            None => return Err(self.markup("text outside of the root element")),
        }
        Ok(())
    }

    fn allows(&self, allowed: Value, value: &str) -> bool {
        match allowed {
            Value::Nothing => value.is_empty(),
            Value::Text => !value.chars().any(char::is_control),
            Value::Word => {
                !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-:".contains(&b))
            }
            Value::Number => {
                value.strip_prefix('-').unwrap_or(value).bytes().all(|b| b.is_ascii_digit())
                    && value.parse::<i64>().is_ok()
            }
            Value::OneOf(words) => words.contains(&value),
            Value::DiskFile => is_below(&self.paths.disk_dirs, value),
            Value::BlockDevice => {
                is_below(&self.paths.block_devices, value)
                    || self.paths.block_devices.iter().any(|device| device.as_os_str() == value)
            }
            Value::LogFile => is_below(&self.paths.log_dirs, value),
            Value::Emulator => !value.is_empty() && self.paths.emulator.as_os_str() == value,
        }
    }

    fn markup(&self, what: &'static str) -> NotAllowed {
        NotAllowed::Markup { what, element: self.path() }
    }

    fn path(&self) -> String {
        self.open.iter().map(|(rule, _)| rule.name).collect::<Vec<_>>().join("/")
    }
}

/// Whether a path lies below one of the directories, as it is written: nothing is resolved, so `.`, `..` and empty parts are refused.
fn is_below(dirs: &[PathBuf], path: &str) -> bool {
    let plain = !path.chars().any(char::is_control)
        && path.strip_prefix('/').is_some_and(|parts| parts.split('/').all(|part| !matches!(part, "" | "." | "..")));
    plain
        && dirs
            .iter()
            .any(|dir| dir.is_absolute() && Path::new(path).strip_prefix(dir).is_ok_and(|rest| rest != Path::new("")))
}

#[cfg(test)]
mod tests;
