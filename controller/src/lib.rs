//! Reconciles OfflineVirtualMachines to VirtualMachines.
