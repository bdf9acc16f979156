//! The network card.

use serde::Serialize;

use super::alias::Alias;
use crate::text::check_text;
use crate::{DomainInput, MacAddress, Network, RenderError};

/// `<interface>`
#[derive(Debug, Serialize)]
pub(crate) struct Interface<'a> {
    #[serde(rename = "@type")]
    kind: &'static str,
    mac: Mac,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source<'a>>,
    model: Model<'a>,
    rom: Rom,
    alias: Alias,
}

/// `<mac address='...'/>`
#[derive(Debug, Serialize)]
struct Mac {
    #[serde(rename = "@address")]
    address: String,
}

/// `<source network='...'/>` or `<source bridge='...'/>`
#[derive(Debug, Serialize)]
struct Source<'a> {
    #[serde(rename = "@network", skip_serializing_if = "Option::is_none")]
    network: Option<&'a str>,
    #[serde(rename = "@bridge", skip_serializing_if = "Option::is_none")]
    bridge: Option<&'a str>,
}

/// `<model type='e1000'/>`
#[derive(Debug, Serialize)]
struct Model<'a> {
    #[serde(rename = "@type")]
    kind: &'a str,
}

/// `<rom enabled='no'/>`: no guest boots from the network, so the firmware need not load and run the card's boot program at each start.
#[derive(Debug, Serialize)]
struct Rom {
    #[serde(rename = "@enabled")]
    enabled: &'static str,
}

impl<'a> Interface<'a> {
    /// The card, or none where the installation gives its guests no network.
    pub(crate) fn make(input: &DomainInput<'a>) -> Result<Option<Self>, RenderError> {
        let (kind, source) = match input.network {
            Network::None => return Ok(None),
            Network::User => ("user", None),
            Network::Libvirt(name) => {
                ("network", Some(Source { network: Some(check_text(&"network", name)?), bridge: None }))
            }
            Network::Bridge(name) => {
                ("bridge", Some(Source { network: None, bridge: Some(check_text(&"network", name)?) }))
            }
        };
        let mac = input.mac.unwrap_or_else(|| MacAddress::derive(input.firmware_uuid));
        Ok(Some(Self {
            kind,
            mac: Mac { address: mac.to_string() },
            source,
            model: Model { kind: check_text(&"nic_model", input.nic_model)? },
            rom: Rom { enabled: "no" },
            alias: Alias::of("net0"),
        }))
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
