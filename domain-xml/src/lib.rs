//! Typed libvirt domain XML: rendered from a VirtualMachine, and read back.
//!
//! [`render`] makes the document from a [`DomainInput`], [`check_allowed`] walks it against an allow-list before libvirt sees it, [`parse`] reads
//! what libvirt answers. Pure: no file, clock, environment or libvirt is looked at, and the same input gives the same bytes.
//!
//! ```text
//! ValidatedSpec ─┐
//! Metadata ──────┼─> DomainInput ─ render ─> XML ─ check_allowed ─> libvirt ─ parse ─> ObservedDomain
//! node facts ────┤                (devices/, one file a device)                         │
//! GuestAbi ──────┘ <─────────────────── check ─ AbiRecord <─ record_of ─────────────────┘
//! ```

mod abi;
mod address;
mod allow;
mod clock;
mod cpu;
mod devices;
mod domain;
mod error;
mod features;
mod input;
mod mac;
mod metadata;
mod name;
mod observed;
mod os;
mod text;
mod tree;
mod xml;

pub use abi::{AbiError, GuestAbi, record_of};
pub use address::{AddressError, DeviceAddress};
pub use allow::{AllowedPaths, NotAllowed, check_allowed};
pub use devices::alias::disk_alias;
pub use domain::render;
pub use error::RenderError;
pub use input::{
    Acceleration, DEFAULT_NIC_MODEL, DEFAULT_TB_CACHE_MIB, DiskAccess, DiskFormat, DiskLayer, DiskSource, DomainInput,
    LayerKind, Network, NetworkError,
};
pub use mac::{MacAddress, MacAddressError};
pub use metadata::{METADATA_PREFIX, Metadata, parse_metadata, render_metadata};
pub use name::DomainName;
pub use observed::{ObservedDevice, ObservedDisk, ObservedDomain, ParseError, parse};

#[cfg(test)]
mod tests;
