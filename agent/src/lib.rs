//! Runs a node's VirtualMachines as libvirt domains.

pub mod libvirt;
