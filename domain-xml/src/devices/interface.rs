//! The network card.

use super::alias::Alias;
use super::place::Place;
use crate::text::check_text;
use crate::xml::XmlWriter;
use crate::{DomainInput, GuestAbi, MacAddress, Network, RenderError};

/// Alias of the only card.
const ALIAS: &str = "net0";

/// `<interface>`
#[derive(Debug)]
pub(crate) struct Interface<'a> {
    kind: &'static str,
    /// Attribute of `<source>`, and its value.
    source: Option<(&'static str, &'a str)>,
    mac: MacAddress,
    model: &'a str,
    place: Place<'a>,
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
        let alias = Alias::of(ALIAS);
        // Hardware address and model stay even where the machine's addresses cannot.
        let known = input.abi.and_then(|abi: &GuestAbi| abi.device(alias.as_str()));
        let mac = known.and_then(|known| known.mac).unwrap_or_else(|| MacAddress::derive(input.firmware_uuid));
        let model = known.and_then(|known| known.model.as_deref()).unwrap_or(input.nic_model);
        let place = Place::of(input, alias);
        Ok(Some(Self { kind, source, mac, model: check_text(&"nic_model", model)?, place }))
    }

    /// Whether the card sits in a PCI Express port of its own, and not on a bridge of conventional PCI.
    pub(crate) fn is_in_port(&self) -> bool {
        self.model.starts_with("virtio") || self.model == "e1000e"
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
            self.place.write(xml);
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
