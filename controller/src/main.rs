//! Reconciles OfflineVirtualMachines to VirtualMachines.

fn main() {}
