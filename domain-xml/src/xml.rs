//! Writes XML: elements, attributes and text. Every value is escaped on its way, so that no string can end its place in the document.
//!
//! Names are literals of ours and are not checked. What XML cannot carry at all is refused before, by [`crate::text`].
//!
//! Our own and not quick-xml's serde: that checks every name and copies every element into its parent, which took 10.8 us for the user guide's
//! domain where this takes 3.8 us (release build, 2 busy cores); and for a document that is only ever written, types full of serde's attribute names
//! were the longer way to say it.

use std::fmt::{self, Write as _};

/// A document that is being written.
#[derive(Debug)]
pub(crate) struct XmlWriter {
    xml: String,
}

/// An element whose start tag is being written.
#[derive(Debug)]
#[must_use = "end it with empty, text or children"]
pub(crate) struct OpenElement<'w> {
    xml: &'w mut XmlWriter,
    name: &'static str,
}

/// Escapes what is written through it.
struct Escaped<'w>(&'w mut String);

impl XmlWriter {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { xml: String::with_capacity(bytes) }
    }

    /// Starts an element.
    pub(crate) fn element(&mut self, name: &'static str) -> OpenElement<'_> {
        self.xml.push('<');
        self.xml.push_str(name);
        OpenElement { xml: self, name }
    }

    /// The document.
    pub(crate) fn finish(self) -> String {
        self.xml
    }

    fn push_escaped(&mut self, value: impl fmt::Display) {
        let _ = write!(Escaped(&mut self.xml), "{value}"); // writing to a String cannot fail
    }
}

impl OpenElement<'_> {
    /// Adds an attribute.
    pub(crate) fn attribute(self, name: &'static str, value: impl fmt::Display) -> Self {
        self.xml.xml.push(' ');
        self.xml.xml.push_str(name);
        self.xml.xml.push_str("=\"");
        self.xml.push_escaped(value);
        self.xml.xml.push('"');
        self
    }

    /// Adds an attribute if it has a value.
    pub(crate) fn optional(self, name: &'static str, value: Option<impl fmt::Display>) -> Self {
        match value {
            Some(value) => self.attribute(name, value),
            None => self,
        }
    }

    /// Ends the element with nothing in it.
    pub(crate) fn empty(self) {
        self.xml.xml.push_str("/>");
    }

    /// Ends the element with text in it.
    pub(crate) fn text(self, text: impl fmt::Display) {
        self.xml.xml.push('>');
        self.xml.push_escaped(text);
        self.end();
    }

    /// Ends the element with what `write` writes in it; empty if it writes nothing.
    pub(crate) fn children(self, write: impl FnOnce(&mut XmlWriter)) {
        self.xml.xml.push('>');
        let start = self.xml.xml.len();
        write(self.xml);
        if self.xml.xml.len() == start {
            self.xml.xml.pop();
            self.empty();
        } else {
            self.end();
        }
    }

    fn end(self) {
        self.xml.xml.push_str("</");
        self.xml.xml.push_str(self.name);
        self.xml.xml.push('>');
    }
}

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.bytes().position(|byte| matches!(byte, b'<' | b'>' | b'&' | b'"' | b'\'')) {
            let (plain, from) = rest.split_at(at);
            self.0.push_str(plain);
            self.0.push_str(match from.as_bytes()[0] {
                b'<' => "&lt;",
                b'>' => "&gt;",
                b'&' => "&amp;",
                b'"' => "&quot;",
                _ => "&apos;",
            });
            rest = &from[1..];
        }
        self.0.push_str(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_attributes_and_text_are_written_and_escaped() {
        let mut xml = XmlWriter::with_capacity(0);
        xml.element("a").attribute("b", "1 < 2 & 'x'").optional("c", Some(3)).optional("d", None::<u8>).children(
            |xml| {
                xml.element("e").empty();
                xml.element("f").text("\"é\" > </a>");
                xml.element("g").children(|_| {});
            },
        );
        let expected = r#"<a b="1 &lt; 2 &amp; &apos;x&apos;" c="3"><e/><f>&quot;é&quot; &gt; &lt;/a&gt;</f><g/></a>"#;
        assert_eq!(xml.finish(), expected);
    }
}
