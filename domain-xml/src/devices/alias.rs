//! Stable names of devices: what the ABI record keys them by.
//!
//! libvirt keeps an alias only with the prefix `ua-`, and refuses one with other characters than `[A-Za-z0-9_-]`
//! (<https://libvirt.org/formatdomain.html#devices>). Names of disks are DNS labels and need nothing; other text is still carried uniquely.

use std::fmt::Write as _;

use crate::xml::XmlWriter;

/// `<alias name='ua-...'/>`
#[derive(Debug)]
pub(crate) struct Alias {
    name: String,
}

impl Alias {
    /// The alias of the only device of its kind, such as `serial0`.
    pub(crate) fn of(kind: &str) -> Self {
        Self { name: format!("ua-{kind}") }
    }

    /// The alias of a device that the user named.
    pub(crate) fn named(kind: &str, name: &str) -> Self {
        Self { name: make_alias(kind, name) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        xml.element("alias").attribute("name", &self.name).empty();
    }
}

/// The alias of a disk, by its name in the spec: `ua-disk-<name>`.
pub fn disk_alias(name: &str) -> String {
    make_alias("disk", name)
}

/// Every byte but letters, digits and `-` becomes `_` and two hex digits, so that two names never give one alias.
fn make_alias(kind: &str, name: &str) -> String {
    let mut alias = format!("ua-{kind}-");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            alias.push(char::from(byte));
        } else {
            let _ = write!(alias, "_{byte:02x}"); // writing to a String cannot fail
        }
    }
    alias
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_disks_stay_readable() {
        assert_eq!(disk_alias("registrydisk"), "ua-disk-registrydisk");
        assert_eq!(disk_alias("my-disk.1_é"), "ua-disk-my-disk_2e1_5f_c3_a9");
    }

    proptest! {
        #[test]
        fn aliases_are_what_libvirt_takes_and_unique(one in any::<String>(), other in any::<String>()) {
            let alias = disk_alias(&one);
            prop_assert!(alias.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
            prop_assert_eq!(one == other, alias == disk_alias(&other));
        }
    }
}
