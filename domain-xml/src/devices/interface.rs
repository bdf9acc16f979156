//! The network card.

use super::alias::Alias;
use crate::text::check_text;
use crate::xml::XmlWriter;
use crate::{DomainInput, MacAddress, Network, RenderError};

/// `<interface>`
#[derive(Debug)]
pub(crate) struct Interface<'a> {
    kind: &'static str,
    /// Attribute of `<source>`, and its value.
    source: Option<(&'static str, &'a str)>,
    mac: MacAddress,
    model: &'a str,
}

impl<'a> Interface<'a> {
    /// The card, or none where the installation gives its guests no network.
    pub(crate) fn make(input: &DomainInput<'a>) -> Result<Option<Self>, RenderError> {
        let (kind, source) = match input.network {
            Network::None => return Ok(None),
            Network::User => ("user", None),
            Network::Libvirt(name) => ("network", Some(("network", check_text(&"network", name)?))),
            Network::Bridge(name) => ("bridge", Some(("bridge", check_text(&"network", name)?))),
        };
        let mac = input.mac.unwrap_or_else(|| MacAddress::derive(input.firmware_uuid));
        Ok(Some(Self { kind, source, mac, model: check_text(&"nic_model", input.nic_model)? }))
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        xml.element("interface").attribute("type", self.kind).children(|xml| {
            xml.element("mac").attribute("address", self.mac).empty();
            if let Some((attribute, name)) = self.source {
                xml.element("source").attribute(attribute, name).empty();
            }
            xml.element("model").attribute("type", self.model).empty();
            // No guest boots from the network, so the firmware need not load and run the card's boot program at each start.
            xml.element("rom").attribute("enabled", "no").empty();
            Alias::of("net0").write(xml);
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{Guest, elements};
    use crate::{MacAddress, Network};
    use uuid::Uuid;

    #[test]
    fn each_network_has_its_source() {
        let mac = MacAddress::derive(Uuid::from_u128(0x5d30_7ca9_b3ef_428c_8861_06e7_2d69_f223));
        let cases = [
            (Network::User, "user", ""),
            (Network::Libvirt("default".to_owned()), "network", r#"<source network="default"/>"#),
            (Network::Bridge("br0".to_owned()), "bridge", r#"<source bridge="br0"/>"#),
        ];
        for (network, kind, source) in cases {
            let guest = Guest { network, nic_model: "virtio".to_owned(), ..Guest::guide() };
            let expected = format!(
                r#"<interface type="{kind}"><mac address="{mac}"/>{source}<model type="virtio"/><rom enabled="no"/><alias name="ua-net0"/></interface>"#
            );
            assert_eq!(elements(&guest.xml(), "interface"), [expected]);
        }
    }

    #[test]
    fn no_network_is_no_card() {
        let guest = Guest { network: Network::None, ..Guest::guide() };
        assert!(elements(&guest.xml(), "interface").is_empty());
    }
}
