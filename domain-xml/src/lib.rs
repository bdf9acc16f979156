//! Typed libvirt domain XML: rendered from a VirtualMachine, and read back.
