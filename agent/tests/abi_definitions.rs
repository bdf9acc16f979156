//! I4 on real definitions: whatever a user does to a template, what stands of a guest stays where it was.
//!
//! Random edits of disks, watchdog, network, memory and CPU; after each the guest is rendered from the last record, and defined (never booted) in a real
//! libvirt. What libvirt made of it must be the old record where a device stands, and must come out the same when it is defined once more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use api::admission::validate_vm_spec;
use api::v1alpha1::{AbiDevice, AbiRecord, VirtualMachineSpec};
use domain_xml::{
    Acceleration, AllowedPaths, DEFAULT_NIC_MODEL, DEFAULT_TB_CACHE_MIB, DiskFormat, DiskSource, DomainInput, GuestAbi,
    Metadata, Network, check_allowed, parse, record_of, render,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use tests::libvirtd::{PrivateLibvirtd, why_unsupported};
use uuid::Uuid;

const EMULATOR: &str = "/usr/bin/qemu-system-x86_64";
const UUID: Uuid = Uuid::from_u128(0x5d30_7ca9_b3ef_428c_8861_06e7_2d69_f223);
/// PCI Express ports that are free in every guest.
const FREE_PORTS: usize = 3;
/// Sequences of edits, unless `PROPTEST_CASES` says otherwise. Each definition takes some 50 ms.
const CASES: u32 = 10;

/// What a user may ask for, as far as devices go.
#[derive(Clone, Debug)]
struct Template {
    /// The machine's alias.
    machine: &'static str,
    /// Names, and what each disk is.
    disks: Vec<(String, Kind)>,
    watchdog: bool,
    network: Network,
    memory_mib: u32,
    cores: u32,
    /// Counts names, so that no two are the same.
    names: u32,
}

/// What a disk is, and on which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Disk(&'static str),
    Cdrom(&'static str),
    Floppy,
}

/// One thing that a user does.
#[derive(Clone, Debug)]
enum Edit {
    Add(Kind),
    Remove(usize),
    Rename(usize),
    Reorder(usize, usize),
    Change(usize, Kind),
    Watchdog,
    Network(bool),
    Resources(u32, u32),
}

impl Template {
    fn new(machine: &'static str) -> Self {
        let disks = vec![("root".to_owned(), Kind::Disk("virtio")), ("seed".to_owned(), Kind::Disk("virtio"))];
        Self { machine, disks, watchdog: false, network: Network::User, memory_mib: 64, cores: 1, names: 0 }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("d{}", self.names)
    }

    fn apply(&mut self, edit: &Edit) {
        let count = self.disks.len();
        match edit {
            Edit::Add(kind) => {
                let name = self.name();
                self.disks.push((name, *kind));
            }
            Edit::Remove(at) if count > 0 => drop(self.disks.remove(at % count)),
            Edit::Rename(at) if count > 0 => self.disks[at % count].0 = self.name(),
            Edit::Reorder(from, to) if count > 0 => self.disks.swap(from % count, to % count),
            Edit::Change(at, kind) if count > 0 => self.disks[at % count].1 = *kind,
            Edit::Remove(_) | Edit::Rename(_) | Edit::Reorder(..) | Edit::Change(..) => {}
            Edit::Watchdog => self.watchdog = !self.watchdog,
            Edit::Network(user) => self.network = if *user { Network::User } else { Network::None },
            Edit::Resources(memory_mib, cores) => (self.memory_mib, self.cores) = (*memory_mib, *cores),
        }
        self.keep_possible();
    }

    /// libvirt takes two floppies, four IDE devices, and no IDE or SATA where the machine has none.
    fn keep_possible(&mut self) {
        let is_pc = self.machine == "pc";
        let (mut floppies, mut ides) = (0, 0);
        for (_, kind) in &mut self.disks {
            *kind = match *kind {
                Kind::Disk("sata") if is_pc => Kind::Disk("ide"),
                Kind::Cdrom("sata") if is_pc => Kind::Cdrom("ide"),
                kind => kind,
            };
            if *kind == Kind::Floppy {
                floppies += 1;
                *kind = if floppies > 2 { Kind::Disk("virtio") } else { Kind::Floppy };
            } else if matches!(*kind, Kind::Disk("ide") | Kind::Cdrom("ide")) {
                ides += 1;
                *kind = if ides > 4 { Kind::Disk("scsi") } else { *kind };
            }
        }
    }

    fn spec(&self) -> VirtualMachineSpec {
        let disk = |(name, kind): &(String, Kind)| {
            let mut disk = json!({"name": name, "volumeName": name});
            match kind {
                Kind::Disk(bus) => disk["disk"] = json!({"bus": bus}),
                Kind::Cdrom(bus) => disk["cdrom"] = json!({"bus": bus}),
                Kind::Floppy => disk["floppy"] = json!({}),
            }
            disk
        };
        let volume = |(name, _): &(String, Kind)| json!({"name": name, "emptyDisk": {"capacity": "1440Ki"}});
        let mut devices = json!({"disks": self.disks.iter().map(disk).collect::<Vec<Value>>()});
        if self.watchdog {
            devices["watchdog"] = json!({"name": "w", "i6300esb": {"action": "reset"}});
        }
        let spec = json!({
            "domain": {
                "machine": {"type": self.machine},
                "cpu": {"cores": self.cores},
                "resources": {"requests": {"memory": format!("{}Mi", self.memory_mib)}},
                "devices": devices,
            },
            "volumes": self.disks.iter().map(volume).collect::<Vec<Value>>(),
        });
        serde_json::from_value(spec).expect("a spec")
    }
}

/// A libvirt, and the guest in it.
struct Bench {
    libvirtd: PrivateLibvirtd,
}

impl Bench {
    /// Renders the template from a record, defines it anew, and reads what libvirt settled.
    fn define(&self, template: &Template, machine_type: &str, record: Option<&AbiRecord>) -> AbiRecord {
        let spec = validate_vm_spec(&template.spec(), "spec").expect("an admissible spec");
        let metadata = Metadata {
            installation: "i".to_owned(),
            node: "n".to_owned(),
            namespace: "default".to_owned(),
            name: "guest".to_owned(),
            uid: "u".to_owned(),
            grace_period_seconds: 0,
            deletion_deadline: None,
        };
        let source = |name: &String| DiskSource::file(format!("/var/lib/ovm/{name}.img"), DiskFormat::Raw);
        let disk_sources: BTreeMap<_, _> =
            template.disks.iter().map(|(name, _)| (name.clone(), source(name))).collect();
        let abi = record.map(|record| GuestAbi::check(record).expect("a record of ours"));
        let xml = render(&DomainInput {
            spec: &spec,
            metadata: &metadata,
            firmware_uuid: UUID,
            machine_type,
            acceleration: Acceleration::Emulation { tb_cache_mib: DEFAULT_TB_CACHE_MIB },
            emulator: Path::new(EMULATOR),
            disk_sources: &disk_sources,
            network: &template.network,
            nic_model: DEFAULT_NIC_MODEL,
            abi: abi.as_ref(),
            console_log: Path::new("/var/lib/ovm/console.log"),
        })
        .expect("renders");
        let paths = AllowedPaths {
            disk_dirs: vec!["/var/lib/ovm".into()],
            block_devices: Vec::new(),
            log_dirs: vec!["/var/lib/ovm".into()],
            emulator: EMULATOR.into(),
        };
        check_allowed(&xml, &paths).expect("is allowed");
        let file = self.libvirtd.directory().join("guest.xml");
        fs::write(&file, &xml).expect("write the document");
        // As at every start: the last VM's definition is gone.
        let _ = self.libvirtd.virsh(&["undefine", "default_guest"]);
        let defined = self.libvirtd.virsh(&["define", file.to_str().expect("a path"), "--validate"]);
        assert!(defined.is_ok(), "{defined:?}\n{xml}");
        let settled = self.libvirtd.virsh(&["dumpxml", "--inactive", "default_guest"]).expect("describe");
        record_of(&parse(&settled).expect("reads"))
    }

    /// Defines, checks what holds of every record, and that it comes out the same once more.
    fn settle(
        &self,
        template: &Template,
        machine_type: &str,
        record: Option<&AbiRecord>,
    ) -> Result<AbiRecord, TestCaseError> {
        let settled = self.define(template, machine_type, record);
        let again = self.define(template, machine_type, Some(&settled));
        prop_assert!(again == settled, "a record does not round-trip: {:#?}", settled.changes(&again));
        let mut seen = BTreeSet::new();
        for device in &settled.devices {
            // Drives are on controllers of one bus each.
            let at = device
                .address
                .as_ref()
                .map(|address| (device.bus.clone().filter(|_| !address.starts_with("pci")), address));
            prop_assert!(at.is_none_or(|at| seen.insert(at)), "two devices have one address: {:?}", device);
        }
        for (name, _) in &template.disks {
            let alias = format!("ua-disk-{name}");
            prop_assert!(
                settled.devices.iter().any(|device| device.alias == alias && device.address.is_some()),
                "{}",
                alias
            );
        }
        let free = free_ports(&settled);
        prop_assert!(template.machine == "pc" || free >= FREE_PORTS, "{free} ports are free");
        Ok(settled)
    }
}

/// Ports that no device is in.
fn free_ports(record: &AbiRecord) -> usize {
    let ports = record.devices.iter().filter(|device| device.model.as_deref() == Some("pcie-root-port"));
    let bus_of = |device: &AbiDevice| {
        let index: u8 = device.alias.rsplit('-').next().expect("an index").parse().expect("an index");
        format!("pci:0000:{index:02x}:")
    };
    let is_used =
        |bus: &String| record.devices.iter().filter_map(|device| device.address.as_ref()).any(|at| at.starts_with(bus));
    ports.map(bus_of).filter(|bus| !is_used(bus)).count()
}

/// Everything that stands is as it was.
fn nothing_moved(old: &AbiRecord, new: &AbiRecord, moved: &BTreeSet<String>) -> Result<(), TestCaseError> {
    prop_assert_eq!(&old.firmware_uuid, &new.firmware_uuid);
    prop_assert_eq!(&old.serial, &new.serial);
    prop_assert_eq!(&old.machine_type, &new.machine_type);
    prop_assert_eq!(&old.cpu_model, &new.cpu_model);
    let by_alias: BTreeMap<_, _> = new.devices.iter().map(|device| (&device.alias, device)).collect();
    for was in &old.devices {
        let is_disk = was.alias.starts_with("ua-disk-");
        let may_go = is_disk || was.alias.starts_with("ua-watchdog-") || was.alias == "ua-net0";
        match by_alias.get(&was.alias) {
            None => prop_assert!(may_go, "{} is gone", was.alias),
            // Another bus is another device.
            Some(is) if moved.contains(&was.alias) => {
                prop_assert!(is.bus != was.bus || *is == was, "{:?} {:?}", was, is);
            }
            Some(is) => prop_assert_eq!(*is, was),
        }
    }
    Ok(())
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => Just(Kind::Disk("virtio")),
        2 => Just(Kind::Disk("sata")),
        2 => Just(Kind::Disk("scsi")),
        2 => Just(Kind::Disk("usb")),
        1 => Just(Kind::Cdrom("sata")),
        1 => Just(Kind::Floppy),
    ]
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        5 => kind().prop_map(Edit::Add),
        3 => any::<usize>().prop_map(Edit::Remove),
        2 => any::<usize>().prop_map(Edit::Rename),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Edit::Reorder(from, to)),
        2 => (any::<usize>(), kind()).prop_map(|(at, kind)| Edit::Change(at, kind)),
        1 => Just(Edit::Watchdog),
        1 => any::<bool>().prop_map(Edit::Network),
        1 => (8..512_u32, 1..9_u32).prop_map(|(memory, cores)| Edit::Resources(memory, cores)),
    ]
}

#[test]
fn i4_what_stands_of_a_guest_stays_where_it_was_whatever_is_edited() {
    if let Some(reason) = why_unsupported() {
        eprintln!("SKIPPED i4_what_stands_of_a_guest_stays_where_it_was_whatever_is_edited: {reason}");
        return;
    }
    let bench = Bench { libvirtd: PrivateLibvirtd::start().expect("start libvirtd") };
    let mut runner =
        TestRunner::new(Config { cases: CASES, max_shrink_iters: 200, failure_persistence: None, ..Config::default() });
    let steps = (
        prop_oneof![3 => Just("q35"), 1 => Just("pc")],
        prop::collection::vec(prop::collection::vec(edit(), 1..4), 1..8),
    );
    let checked = runner.run(&steps, |(machine, starts)| {
        let mut template = Template::new(machine);
        // An older version than the alias stands for, as after an upgrade of QEMU.
        let machine_type = if machine == "pc" { "pc-i440fx-9.2" } else { "pc-q35-9.2" };
        let mut record = bench.settle(&template, machine_type, None)?;
        for edits in starts {
            let before = template.clone();
            for edit in &edits {
                template.apply(edit);
            }
            let settled = bench.settle(&template, machine_type, Some(&record))?;
            let moved = template
                .disks
                .iter()
                .filter(|(name, kind)| before.disks.iter().any(|(old, was)| old == name && was != kind));
            let moved = moved.map(|(name, _)| format!("ua-disk-{name}")).collect();
            nothing_moved(&record, &settled, &moved)?;
            record = settled;
        }
        Ok(())
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

/// The most that a guest has had: hubs and further controllers are on record too, and stay when what they were for is gone.
#[test]
fn i4_a_guest_of_many_disks_keeps_its_controllers_when_most_of_them_go() {
    if let Some(reason) = why_unsupported() {
        eprintln!("SKIPPED i4_a_guest_of_many_disks_keeps_its_controllers_when_most_of_them_go: {reason}");
        return;
    }
    let bench = Bench { libvirtd: PrivateLibvirtd::start().expect("start libvirtd") };
    let mut template = Template::new("q35");
    let kinds = [Kind::Disk("virtio"), Kind::Disk("sata"), Kind::Disk("scsi"), Kind::Disk("usb")];
    for kind in kinds.iter().cycle().take(80) {
        template.apply(&Edit::Add(*kind));
    }
    let full = bench.settle(&template, "pc-q35-10.0", None).expect("settles");
    assert!(full.devices.iter().any(|device| device.alias.starts_with("ua-hub-")), "twenty USB disks need a hub");
    template.disks.retain(|(name, _)| name.ends_with('7'));
    let less = bench.settle(&template, "pc-q35-10.0", Some(&full)).expect("settles");
    nothing_moved(&full, &less, &BTreeSet::new()).expect("nothing moves");
    template.apply(&Edit::Add(Kind::Disk("usb")));
    template.apply(&Edit::Add(Kind::Disk("scsi")));
    let more = bench.settle(&template, "pc-q35-10.0", Some(&less)).expect("settles");
    nothing_moved(&less, &more, &BTreeSet::new()).expect("nothing moves");
    // A machine of another family has other addresses; identity and hardware address stay.
    template.machine = "pc";
    template.keep_possible();
    let other = bench.settle(&template, "pc-i440fx-10.0", Some(&more)).expect("settles");
    let mac = |record: &AbiRecord| {
        record.devices.iter().find(|device| device.alias == "ua-net0").and_then(|card| card.mac.clone())
    };
    assert_eq!((mac(&other), &other.serial, &other.firmware_uuid), (mac(&more), &more.serial, &more.firmware_uuid));
}
