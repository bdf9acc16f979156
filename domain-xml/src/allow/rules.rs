//! The list itself: the elements of a domain that we ever write, with their attributes, and what may stand in each.

use crate::abi::{CONTROLLER_MODELS, CONTROLLER_TYPES};
use Value::{BlockDevice, DiskFile, Emulator, LogFile, Nothing, Number, OneOf, Text, Word};

/// Values of switches.
const ON_OFF: Value = OneOf(&["on", "off"]);

/// One element.
pub(super) struct Rule {
    /// Name as written, with prefix.
    pub(super) name: &'static str,
    /// Attributes by name.
    pub(super) attributes: &'static [(&'static str, Value)],
    /// Text in it.
    pub(super) text: Value,
    /// Elements in it.
    pub(super) children: &'static [&'static Rule],
}

/// What may stand in an attribute, or as text.
#[derive(Clone, Copy)]
pub(super) enum Value {
    /// Nothing.
    Nothing,
    /// Any text without control characters: names of objects, which libvirt only shows again.
    Text,
    /// Letters, digits and `._-:`: names of models, devices, networks.
    Word,
    /// A whole number.
    Number,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// A file below a disk directory.
    DiskFile,
    /// A listed block device.
    BlockDevice,
    /// A file below a log directory.
    LogFile,
    /// QEMU's binary.
    Emulator,
}

/// The root. Statics and not constants: a rule can then name itself, as a backing chain needs.
pub(super) static DOMAIN: Rule = node(
    "domain",
    &[("type", OneOf(&["kvm", "qemu"]))],
    &[
        &leaf("name", &[], Word),
        &leaf("uuid", &[], Word),
        &METADATA,
        &leaf("memory", &[("unit", OneOf(&["KiB"]))], Number),
        &leaf("vcpu", &[("placement", OneOf(&["static"]))], Number),
        &node(
            "sysinfo",
            &[("type", OneOf(&["smbios"]))],
            &[&node("system", &[], &[&leaf("entry", &[("name", OneOf(&["serial", "uuid"]))], Text)])],
        ),
        &node(
            "os",
            &[],
            &[&leaf("type", &[("arch", OneOf(&["x86_64"])), ("machine", Word)], OneOf(&["hvm"])), &SMBIOS],
        ),
        &FEATURES,
        &node(
            "cpu",
            &[("mode", OneOf(&["custom"])), ("match", OneOf(&["exact"])), ("check", OneOf(&["none"]))],
            &[
                &leaf("model", &[("fallback", OneOf(&["forbid"]))], Word),
                &leaf("topology", &[("sockets", Number), ("cores", Number), ("threads", Number)], Nothing),
            ],
        ),
        &CLOCK,
        &leaf("on_poweroff", &[], OneOf(&["destroy"])),
        &leaf("on_reboot", &[], OneOf(&["restart"])),
        &leaf("on_crash", &[], OneOf(&["destroy"])),
        &DEVICES,
    ],
);

static SMBIOS: Rule = leaf("smbios", &[("mode", OneOf(&["sysinfo"]))], Nothing);

static METADATA: Rule = node(
    "metadata",
    &[],
    &[&node(
        "kubevirt:vm",
        &[("xmlns:kubevirt", OneOf(&[api::names::DOMAIN_METADATA_NAMESPACE]))],
        &[
            &leaf("kubevirt:installation", &[], Text),
            &leaf("kubevirt:node", &[], Text),
            &leaf("kubevirt:namespace", &[], Text),
            &leaf("kubevirt:name", &[], Text),
            &leaf("kubevirt:uid", &[], Text),
            &leaf("kubevirt:gracePeriodSeconds", &[], Number),
            &leaf("kubevirt:deletionDeadline", &[], Word),
        ],
    )],
);

static FEATURES: Rule = node(
    "features",
    &[],
    &[
        &leaf("acpi", &[], Nothing),
        &leaf("apic", &[("eoi", ON_OFF)], Nothing),
        &node(
            "hyperv",
            &[],
            &[
                &switch("relaxed"),
                &switch("vapic"),
                &leaf("spinlocks", &[("state", ON_OFF), ("retries", Number)], Nothing),
                &switch("vpindex"),
                &switch("runtime"),
                &switch("synic"),
                &switch("stimer"),
                &switch("reset"),
                &leaf("vendor_id", &[("state", ON_OFF), ("value", Text)], Nothing),
            ],
        ),
        &node("tcg", &[], &[&leaf("tb-cache", &[("unit", OneOf(&["MiB"]))], Number)]),
    ],
);

static CLOCK: Rule = node(
    "clock",
    &[("offset", OneOf(&["utc", "variable", "timezone"])), ("adjustment", Number), ("timezone", Text)],
    &[&leaf(
        "timer",
        &[
            ("name", OneOf(&["rtc", "pit", "hpet", "kvmclock", "hypervclock"])),
            ("present", OneOf(&["yes", "no"])),
            ("tickpolicy", OneOf(&["delay", "catchup", "merge", "discard"])),
            ("track", OneOf(&["guest", "wall"])),
        ],
        Nothing,
    )],
);

static DEVICES: Rule = node(
    "devices",
    &[],
    &[
        &leaf("emulator", &[], Emulator),
        &DISK,
        &node(
            "controller",
            &[("type", OneOf(CONTROLLER_TYPES)), ("index", Number), ("model", OneOf(CONTROLLER_MODELS))],
            &[&leaf("target", &[("chassis", Number), ("chassisNr", Number), ("port", Word)], Nothing), &ADDRESS],
        ),
        &node("hub", &[("type", OneOf(&["usb"]))], &[&ADDRESS]),
        &INTERFACE,
        &node(
            "serial",
            &[("type", OneOf(&["pty"]))],
            &[
                &leaf("log", &[("file", LogFile), ("append", ON_OFF)], Nothing),
                &leaf("target", &[("type", OneOf(&["isa-serial"])), ("port", Number)], Nothing),
                &ALIAS,
            ],
        ),
        &node("graphics", &[("type", OneOf(&["vnc"]))], &[&leaf("listen", &[("type", OneOf(&["none"]))], Nothing)]),
        &node(
            "video",
            &[],
            &[
                &leaf("model", &[("type", OneOf(&["vga"])), ("vram", Number), ("heads", Number)], Nothing),
                &ALIAS,
                &ADDRESS,
            ],
        ),
        &node(
            "watchdog",
            &[("model", OneOf(&["i6300esb"])), ("action", OneOf(&["poweroff", "reset", "shutdown"]))],
            &[&ALIAS, &ADDRESS],
        ),
        &node("memballoon", &[("model", OneOf(&["virtio"]))], &[&ALIAS, &ADDRESS]),
        &node(
            "rng",
            &[("model", OneOf(&["virtio"]))],
            &[&leaf("backend", &[("model", OneOf(&["random"]))], OneOf(&["/dev/urandom"])), &ALIAS, &ADDRESS],
        ),
        &node("panic", &[("model", OneOf(&["isa"]))], &[&ALIAS]),
    ],
);

static DISK: Rule = node(
    "disk",
    &[("type", OneOf(&["file", "block"])), ("device", OneOf(&["disk", "lun", "floppy", "cdrom"]))],
    &[
        &leaf(
            "driver",
            &[
                ("name", OneOf(&["qemu"])),
                ("type", OneOf(&["raw", "qcow2"])),
                ("cache", OneOf(&["none"])),
                ("error_policy", OneOf(&["stop"])),
                ("rerror_policy", OneOf(&["report"])),
                ("discard", OneOf(&["unmap"])),
            ],
            Nothing,
        ),
        &SOURCE,
        &BACKING_STORE,
        &leaf(
            "target",
            &[
                ("dev", Word),
                ("bus", OneOf(&["virtio", "sata", "scsi", "ide", "usb", "fdc"])),
                ("tray", OneOf(&["open"])),
            ],
            Nothing,
        ),
        &leaf("readonly", &[], Nothing),
        &leaf("shareable", &[], Nothing),
        &leaf("boot", &[("order", Number)], Nothing),
        &ALIAS,
        &ADDRESS,
    ],
);

static SOURCE: Rule = leaf("source", &[("file", DiskFile), ("dev", BlockDevice)], Nothing);

static BACKING_STORE: Rule = node(
    "backingStore",
    &[("type", OneOf(&["file", "block"]))],
    &[&leaf("format", &[("type", OneOf(&["raw", "qcow2"]))], Nothing), &SOURCE, &BACKING_STORE],
);

static INTERFACE: Rule = node(
    "interface",
    &[("type", OneOf(&["user", "network", "bridge"]))],
    &[
        &leaf("mac", &[("address", Word)], Nothing),
        &leaf("source", &[("network", Word), ("bridge", Word)], Nothing),
        &leaf("model", &[("type", Word)], Nothing),
        &leaf("rom", &[("enabled", OneOf(&["no"]))], Nothing),
        &ALIAS,
        &ADDRESS,
    ],
);

static ALIAS: Rule = leaf("alias", &[("name", Word)], Nothing);

static ADDRESS: Rule = leaf(
    "address",
    &[
        ("type", OneOf(&["pci", "drive", "usb"])),
        ("domain", Word),
        ("bus", Word),
        ("slot", Word),
        ("function", Word),
        ("controller", Number),
        ("target", Number),
        ("unit", Number),
        ("port", Word),
    ],
    Nothing,
);

/// An element without elements.
const fn leaf(name: &'static str, attributes: &'static [(&'static str, Value)], text: Value) -> Rule {
    Rule { name, attributes, text, children: &[] }
}

/// An element without text.
const fn node(
    name: &'static str,
    attributes: &'static [(&'static str, Value)],
    children: &'static [&'static Rule],
) -> Rule {
    Rule { name, attributes, text: Nothing, children }
}

/// `state='on'`
const fn switch(name: &'static str) -> Rule {
    leaf(name, &[("state", ON_OFF)], Nothing)
}
