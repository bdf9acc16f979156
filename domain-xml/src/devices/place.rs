//! A device's alias, and the address that it has on record.

use super::alias::Alias;
use crate::xml::XmlWriter;
use crate::{DeviceAddress, DomainInput};

/// `<alias/>`, and `<address/>` where the record has one: without, libvirt chooses a free one.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    alias: Alias,
    address: Option<&'a DeviceAddress>,
}

impl<'a> Place<'a> {
    /// The place on record of the device with this alias.
    pub(crate) fn of(input: &DomainInput<'a>, alias: Alias) -> Self {
        let device = input.settled().and_then(|abi| abi.device(alias.as_str()));
        Self { alias, address: device.and_then(|device| device.address.as_ref()) }
    }

    /// No place on record.
    pub(crate) fn free(alias: Alias) -> Self {
        Self { alias, address: None }
    }

    /// The address on record.
    pub(crate) fn address(&self) -> Option<&'a DeviceAddress> {
        self.address
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        self.alias.write(xml);
        self.address.iter().for_each(|address| address.write(xml));
    }
}
