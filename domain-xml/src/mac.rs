//! Hardware addresses of network cards.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use uuid::Uuid;

/// Hardware address of a network card: unicast, six bytes, printed `02:1a:...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

/// A text that is no hardware address of a network card.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not the hardware address of a network card")]
pub struct MacAddressError {
    /// What was given.
    pub text: String,
}

impl MacAddress {
    /// The address of the only card of the guest with this firmware UUID: the same at every start, on every node.
    ///
    /// 40 bits of a UUIDv5 over the firmware UUID, in the locally administered range: with a thousand guests on one wire two meet by a chance of one
    /// in two million. QEMU's usual prefix would leave 24 bits, and one in 33.
    pub fn derive(firmware_uuid: Uuid) -> Self {
        let hash = Uuid::new_v5(&firmware_uuid, b"interface 0").into_bytes();
        Self([0x02, hash[0], hash[1], hash[2], hash[3], hash[4]])
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, rest @ ..] = self.0;
        write!(f, "{first:02x}")?;
        rest.iter().try_for_each(|byte| write!(f, ":{byte:02x}"))
    }
}

impl FromStr for MacAddress {
    type Err = MacAddressError;

    fn from_str(text: &str) -> Result<Self, MacAddressError> {
        let wrong = || MacAddressError { text: text.to_owned() };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        let multicast = bytes[0] & 1 == 1;
        if parts.next().is_some() || multicast || bytes == [0; 6] { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_are_local_unicast_and_stable() {
        let uuid = Uuid::from_u128(0x5d30_7ca9_b3ef_428c_8861_06e7_2d69_f223);
        let mac = MacAddress::derive(uuid);
        assert_eq!(mac, MacAddress::derive(uuid));
        assert_ne!(mac, MacAddress::derive(Uuid::from_u128(1)));
        assert_eq!(mac.0[0] & 0b11, 0b10);
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "2:0:0:0:0:0",
            "02-00-00-00-00-00",
            "+2:00:00:00:00:00",
            "01:00:00:00:00:00",
            "00:00:00:00:00:00",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }
}
