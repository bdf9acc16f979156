//! Runs a node's VirtualMachines as libvirt domains.

pub mod disks;
pub mod hostfs;
pub mod image_command;
pub mod images;
pub mod libvirt;
pub mod seed;
