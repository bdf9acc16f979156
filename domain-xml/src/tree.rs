//! A document as a tree of elements with resolved namespaces: what libvirt's answers are read from.
//!
//! Reading through serde would match elements by their local name, and take another tool's `<other:vm>` for ours. Reads only elements, attributes
//! and text; comments and processing instructions are passed over; a document type is refused, since libvirt writes none.

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use crate::ParseError;

/// Deepest nesting that is read. A backing chain of 200 layers stays below; a hostile document cannot exhaust the stack when the tree is dropped.
const MAX_DEPTH: usize = 256;

/// One element.
#[derive(Debug, Default)]
pub(crate) struct Element {
    /// Its namespace; empty if none.
    pub(crate) namespace: String,
    /// Its name without prefix.
    pub(crate) name: String,
    /// Its attributes: name as written, and value.
    pub(crate) attributes: Vec<(String, String)>,
    /// Its child elements, in order.
    pub(crate) children: Vec<Element>,
    /// The text directly in it, put together.
    pub(crate) text: String,
}

impl Element {
    /// Reads a whole document.
    ///
    /// # Errors
    /// [`ParseError::Syntax`] and [`ParseError::Structure`].
    pub(crate) fn parse(xml: &str) -> Result<Self, ParseError> {
        let mut reader = NsReader::from_str(xml);
        reader.config_mut().expand_empty_elements = true;
        let mut open: Vec<Self> = Vec::new();
        let mut root: Option<Self> = None;
        loop {
            let (namespace, event) = reader.read_resolved_event().map_err(ParseError::Syntax)?;
            match event {
                Event::Start(start) => {
                    if root.is_some() || open.len() == MAX_DEPTH {
                        return Err(ParseError::structure(if root.is_some() {
                            "more than one root element"
                        } else {
                            "elements nested too deeply"
                        }));
                    }
                    open.push(Self::make(&namespace, &start)?);
                }
                Event::End(_) => {
                    // The reader has matched the end tag with its start tag, so one is open.
                    let Some(done) = open.pop() else {
                        return Err(ParseError::structure("an end tag without start tag"));
                    };
                    match open.last_mut() {
                        Some(parent) => parent.children.push(done),
                        None => root = Some(done),
                    }
                }
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.xml10_content());
                    }
                }
                Event::CData(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text.xml10_content());
                    }
                }
                Event::GeneralRef(reference) => {
                    let Some(element) = open.last_mut() else {
                        return Err(ParseError::structure("text outside the root element"));
                    };
                    if let Some(character) = reference.resolve_char_ref().map_err(ParseError::Syntax)? {
                        element.text.push(character);
                    } else {
                        let known = resolve_predefined_entity(&reference.xml10_content())
                            .ok_or_else(|| ParseError::structure("an unknown entity"))?;
                        element.text.push_str(known);
                    }
                }
                Event::DocType(_) => return Err(ParseError::structure("a document type")),
                Event::Comment(_) | Event::PI(_) | Event::Decl(_) => {}
                Event::Eof => break,
                Event::Empty(_) => return Err(ParseError::structure("an empty element that was not expanded")),
            }
        }
        if open.is_empty() {
            root.ok_or_else(|| ParseError::structure("no root element"))
        } else {
            Err(ParseError::structure("no end"))
        }
    }

    fn make(namespace: &ResolveResult<'_>, start: &BytesStart<'_>) -> Result<Self, ParseError> {
        let mut element = Self { name: start.local_name().as_ref().to_owned(), ..Self::default() };
        match namespace {
            ResolveResult::Bound(bound) => bound.as_ref().clone_into(&mut element.namespace),
            ResolveResult::Unbound => {}
            ResolveResult::Unknown(_) => return Err(ParseError::structure("a namespace prefix that is not declared")),
        }
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| ParseError::Syntax(error.into()))?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(ParseError::Syntax)?.into_owned();
            element.attributes.push((attribute.key.as_ref().to_owned(), value));
        }
        Ok(element)
    }

    /// The first child of this name that is libvirt's own (in no namespace).
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name && child.namespace.is_empty())
    }

    /// The value of an attribute.
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_attributes_text_and_namespaces_are_read() {
        let root = Element::parse("<a x='1 &amp; 2'>t&lt;&#65;<![CDATA[<]]><b/><p:b xmlns:p='urn:p'/></a>")
            .expect("well-formed");
        assert_eq!((root.name.as_str(), root.attribute("x"), root.text.as_str()), ("a", Some("1 & 2"), "t<A<"));
        let names: Vec<_> = root.children.iter().map(|child| (child.namespace.as_str(), child.name.as_str())).collect();
        assert_eq!(names, [("", "b"), ("urn:p", "b")]);
    }

    #[test]
    fn malformed_documents_are_errors() {
        let deep = "<a>".repeat(100_000);
        let cases = [
            "",
            "text",
            "<a>",
            "</a>",
            "<a></b>",
            "<a/><b/>",
            "<a x=1/>",
            "<a x='1' x='2'/>",
            "<a>&unknown;</a>",
            "<p:a/>",
            "<!DOCTYPE a><a/>",
            &deep,
        ];
        for xml in cases {
            assert!(Element::parse(xml).is_err(), "{}", &xml[..xml.len().min(20)]);
        }
    }
}
