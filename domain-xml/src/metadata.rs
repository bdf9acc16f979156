//! What we keep in a domain about its VirtualMachine: one element in libvirt's `<metadata>`, in a namespace of ours.
//!
//! It is all that the agent knows of a guest whose object is gone: who it belongs to, and how long it has to shut down. Values are text elements,
//! times RFC 3339. Unknown elements are ignored, so that a newer agent's domains can be read.

use jiff::Timestamp;

use api::names::DOMAIN_METADATA_NAMESPACE;

use crate::text::check_text;
use crate::tree::Element;
use crate::xml::XmlWriter;
use crate::{ParseError, RenderError};

/// Prefix to hand to libvirt's metadata calls as `key`, with [`DOMAIN_METADATA_NAMESPACE`] as `uri`.
pub const METADATA_PREFIX: &str = "kubevirt";
/// Name of our element.
const ROOT: &str = "vm";
/// Bytes that our element needs.
const USUAL_BYTES: usize = 512;

/// Whose domain it is, and how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The installation: its cluster's UID.
    pub installation: String,
    /// Name of the node that the guest is bound to.
    pub node: String,
    /// Namespace of the VirtualMachine.
    pub namespace: String,
    /// Name of the VirtualMachine.
    pub name: String,
    /// UID of the VirtualMachine.
    pub uid: String,
    /// Seconds between the request to shut down and the power-off; 0 is at once.
    pub grace_period_seconds: u64,
    /// When the guest is powered off; set once its end has been asked for.
    pub deletion_deadline: Option<Timestamp>,
}

/// Renders our element alone, for `virDomainSetMetadata` with key [`METADATA_PREFIX`] and the namespace as `uri`.
///
/// It has no namespace: libvirt puts in both, and returns it without (measured with libvirt 11.3).
///
/// # Errors
/// [`RenderError::IllegalCharacter`].
pub fn render_metadata(metadata: &Metadata) -> Result<String, RenderError> {
    metadata.check()?;
    let mut xml = XmlWriter::with_capacity(USUAL_BYTES);
    xml.element(ROOT).children(|xml| metadata.write_values(xml, |name, _| name));
    Ok(xml.finish())
}

/// Reads our element alone, as `virDomainGetMetadata` returns it: without its namespace, or with it.
///
/// # Errors
/// [`ParseError`]: malformed, or a value is missing or wrong.
pub fn parse_metadata(xml: &str) -> Result<Metadata, ParseError> {
    let root = Element::parse(xml)?;
    if root.name == ROOT && (root.namespace.is_empty() || root.namespace == DOMAIN_METADATA_NAMESPACE) {
        Metadata::from_element(&root)
    } else {
        Err(ParseError::structure("no metadata of ours"))
    }
}

impl Metadata {
    /// Fails if a value cannot be carried by XML.
    pub(crate) fn check(&self) -> Result<(), RenderError> {
        let values = [
            ("metadata.installation", &self.installation),
            ("metadata.node", &self.node),
            ("metadata.namespace", &self.namespace),
            ("metadata.name", &self.name),
            ("metadata.uid", &self.uid),
        ];
        values.into_iter().try_for_each(|(field, value)| check_text(&field, value).map(drop))
    }

    /// Writes our element into a domain. Its names carry the prefix, as libvirt itself writes them.
    pub(crate) fn write_in_domain(&self, xml: &mut XmlWriter) {
        let element = xml.element("kubevirt:vm").attribute("xmlns:kubevirt", DOMAIN_METADATA_NAMESPACE);
        element.children(|xml| self.write_values(xml, |_, prefixed| prefixed));
    }

    /// Writes the values as elements; `pick` takes each name without or with the prefix.
    fn write_values(&self, xml: &mut XmlWriter, pick: fn(&'static str, &'static str) -> &'static str) {
        xml.element(pick("installation", "kubevirt:installation")).text(&self.installation);
        xml.element(pick("node", "kubevirt:node")).text(&self.node);
        xml.element(pick("namespace", "kubevirt:namespace")).text(&self.namespace);
        xml.element(pick("name", "kubevirt:name")).text(&self.name);
        xml.element(pick("uid", "kubevirt:uid")).text(&self.uid);
        xml.element(pick("gracePeriodSeconds", "kubevirt:gracePeriodSeconds")).text(self.grace_period_seconds);
        if let Some(deadline) = self.deletion_deadline {
            xml.element(pick("deletionDeadline", "kubevirt:deletionDeadline")).text(deadline);
        }
    }

    /// The metadata in a domain's `<metadata>`; none if no element there is ours.
    pub(crate) fn find(metadata: &Element) -> Result<Option<Self>, ParseError> {
        metadata
            .children
            .iter()
            .find(|child| child.namespace == DOMAIN_METADATA_NAMESPACE && child.name == ROOT)
            .map(Self::from_element)
            .transpose()
    }

    fn from_element(root: &Element) -> Result<Self, ParseError> {
        let find =
            |name: &str| root.children.iter().find(|child| child.name == name && child.namespace == root.namespace);
        let text = |name: &'static str| {
            find(name).map(|child| child.text.clone()).ok_or(ParseError::Missing { element: "metadata", what: name })
        };
        let wrong = |what, value: &str| ParseError::Wrong { what, value: value.to_owned() };
        let grace_period = text("gracePeriodSeconds")?;
        let deletion_deadline = find("deletionDeadline")
            .map(|child| child.text.parse().map_err(|_| wrong("deletionDeadline", &child.text)));
        Ok(Self {
            installation: text("installation")?,
            node: text("node")?,
            namespace: text("namespace")?,
            name: text("name")?,
            uid: text("uid")?,
            grace_period_seconds: grace_period.parse().map_err(|_| wrong("gracePeriodSeconds", &grace_period))?,
            deletion_deadline: deletion_deadline.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        Metadata {
            installation: "4a0e7d3c-1c9e-4f7e-9d0e-8f6f4d3a2b10".to_owned(),
            node: "node-1".to_owned(),
            namespace: "default".to_owned(),
            name: "ovm-cirros".to_owned(),
            uid: "60043358-4c58-11e8-8653-525500d15501".to_owned(),
            grace_period_seconds: 30,
            deletion_deadline: Some("2026-11-22T15:00:00.25Z".parse().expect("a time")),
        }
    }

    #[test]
    fn metadata_alone_has_no_namespace_and_reads_back() {
        let xml = render_metadata(&metadata()).expect("renders");
        assert!(xml.starts_with("<vm><installation>4a0e7d3c-"), "{xml}");
        assert!(xml.ends_with("<deletionDeadline>2026-11-22T15:00:00.25Z</deletionDeadline></vm>"), "{xml}");
        assert_eq!(parse_metadata(&xml).expect("reads"), metadata());
        let without = Metadata { deletion_deadline: None, ..metadata() };
        assert_eq!(parse_metadata(&render_metadata(&without).expect("renders")).expect("reads"), without);
    }

    #[test]
    fn libvirts_prefixed_form_reads_alike() {
        let xml = render_metadata(&metadata()).expect("renders");
        let prefixed = xml.replace("</", "</k:").replace('<', "<k:").replace("<k:/k:", "</k:").replacen(
            "<k:vm",
            "<k:vm xmlns:k='http://kubevirt.io'",
            1,
        );
        assert_eq!(parse_metadata(&prefixed).expect("reads"), metadata());
        let foreign = prefixed.replace("http://kubevirt.io", "http://example.org");
        assert!(parse_metadata(&foreign).is_err());
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let xml = render_metadata(&metadata()).expect("renders");
        for (from, to, message) in [
            ("<uid>60043358-4c58-11e8-8653-525500d15501</uid>", "", "metadata has no uid"),
            ("<gracePeriodSeconds>30<", "<gracePeriodSeconds>-1<", "gracePeriodSeconds cannot be \"-1\""),
            ("2026-11-22T15", "soon", "deletionDeadline cannot be \"soon:00:00.25Z\""),
        ] {
            let error = parse_metadata(&xml.replace(from, to)).expect_err(message);
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_control_character_is_refused_with_its_field() {
        let hostile = Metadata { node: "a\u{1}".to_owned(), ..metadata() };
        assert_eq!(
            render_metadata(&hostile).expect_err("refused").to_string(),
            "field metadata.node has character U+0001, which domain XML cannot carry"
        );
    }
}
