//! Guests for the tests of this crate, made from wire JSON through admission, so that a test renders what a user could have asked for.

mod golden;
mod hostile;
mod read_back;
mod schema;

use std::collections::BTreeMap;
use std::path::Path;

use api::admission::validate_vm_spec;
use api::v1alpha1::VirtualMachineSpec;
use api::validated::ValidatedSpec;
use quick_xml::events::Event;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    Acceleration, AllowedPaths, DEFAULT_NIC_MODEL, DEFAULT_TB_CACHE_MIB, DiskFormat, DiskLayer, DiskSource,
    DomainInput, GuestAbi, LayerKind, Metadata, Network, RenderError, check_allowed, render,
};

/// Under QEMU's emulation, with the usual cache.
pub(crate) const EMULATION: Acceleration = Acceleration::Emulation { tb_cache_mib: DEFAULT_TB_CACHE_MIB };

/// All that an input borrows from. A test changes what it is about.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) spec: ValidatedSpec,
    pub(crate) metadata: Metadata,
    pub(crate) machine_type: String,
    pub(crate) acceleration: Acceleration,
    pub(crate) disk_sources: BTreeMap<String, DiskSource>,
    pub(crate) network: Network,
    pub(crate) nic_model: String,
    pub(crate) console_log: String,
    pub(crate) abi: Option<GuestAbi>,
}

impl Guest {
    /// A guest with this `domain` and these volumes; each volume is an image `/var/lib/ovm/vms/1/<index>.img`.
    pub(crate) fn new(domain: &Value, volumes: &Value) -> Self {
        let spec: VirtualMachineSpec =
            serde_json::from_value(json!({"domain": domain, "volumes": volumes, "terminationGracePeriodSeconds": 0}))
                .expect("a spec");
        let spec = validate_vm_spec(&spec, "spec").expect("an admissible spec");
        let image = |index| DiskSource::file(format!("/var/lib/ovm/vms/1/{index}.img"), DiskFormat::Raw);
        let disk_sources =
            spec.volumes.iter().enumerate().map(|(index, volume)| (volume.name.clone(), image(index))).collect();
        Self {
            machine_type: spec.machine_type.clone().unwrap_or_else(|| "pc-q35-10.0".to_owned()),
            spec,
            metadata: Metadata {
                installation: "4a0e7d3c-1c9e-4f7e-9d0e-8f6f4d3a2b10".to_owned(),
                node: "node-1".to_owned(),
                namespace: "default".to_owned(),
                name: "ovm-cirros".to_owned(),
                uid: "60043358-4c58-11e8-8653-525500d15501".to_owned(),
                grace_period_seconds: 0,
                deletion_deadline: None,
            },
            acceleration: Acceleration::Kvm,
            disk_sources,
            network: Network::User,
            nic_model: DEFAULT_NIC_MODEL.to_owned(),
            console_log: "/var/log/ovm/60043358-4c58-11e8-8653-525500d15501.log".to_owned(),
            abi: None,
        }
    }

    /// A guest with this `domain` (`devices.disks` aside) and one image a disk.
    pub(crate) fn with_disks(machine: &str, disks: &[Value]) -> Self {
        let named = |index: usize| format!("d{index}");
        let volume_of = |(index, disk): (usize, &Value)| match disk.get("lun") {
            Some(_) => json!({"name": named(index), "persistentVolumeClaim": {"claimName": "c"}}),
            None => json!({"name": named(index), "emptyDisk": {"capacity": "1Mi"}}),
        };
        let volumes: Vec<_> = disks.iter().enumerate().map(volume_of).collect();
        let with_name = |(index, disk): (usize, &Value)| {
            let mut disk = disk.clone();
            disk["name"] = named(index).into();
            disk["volumeName"] = named(index).into();
            disk
        };
        let disks: Vec<_> = disks.iter().enumerate().map(with_name).collect();
        Self::new(&json!({"machine": {"type": machine}, "devices": {"disks": disks}}), &json!(volumes))
    }

    /// The user guide's example.
    pub(crate) fn guide() -> Self {
        let domain = json!({
            "devices": {"disks": [
                {"disk": {"bus": "virtio"}, "name": "registrydisk", "volumeName": "registryvolume"},
                {"disk": {"bus": "virtio"}, "name": "cloudinitdisk", "volumeName": "cloudinitvolume"},
            ]},
            "machine": {"type": ""},
            "resources": {"requests": {"memory": "64M"}},
        });
        let user_data = "IyEvYmluL3NoCgplY2hvICdwcmludGVkIGZyb20gY2xvdWQtaW5pdCB1c2VyZGF0YScK";
        let volumes = json!([
            {"name": "registryvolume", "registryDisk": {"image": "kubevirt/cirros-registry-disk-demo:latest"}},
            {"name": "cloudinitvolume", "cloudInitNoCloud": {"userDataBase64": user_data}},
        ]);
        let mut guest = Self::new(&domain, &volumes);
        let base =
            DiskLayer { kind: LayerKind::File, path: "/var/lib/ovm/images/1.img".into(), format: DiskFormat::Raw };
        let overlay =
            DiskSource::file("/var/lib/ovm/vms/60043358-4c58-11e8-8653-525500d15501/0.qcow2", DiskFormat::Qcow2)
                .over(base);
        let seed = DiskSource::file("/var/lib/ovm/vms/60043358-4c58-11e8-8653-525500d15501/1.iso", DiskFormat::Raw);
        guest.disk_sources =
            BTreeMap::from([("registryvolume".to_owned(), overlay), ("cloudinitvolume".to_owned(), seed)]);
        guest
    }

    /// A guest with everything that a spec can ask for on q35.
    pub(crate) fn full() -> Self {
        let on = json!({"enabled": true});
        let domain = json!({
            "resources": {"requests": {"memory": "96Mi", "cpu": "500m"}, "limits": {"memory": "1Gi", "cpu": "2"}},
            "cpu": {"cores": 2},
            "machine": {"type": "q35"},
            "firmware": {"uuid": "5d307ca9-b3ef-428c-8861-06e72d69f223"},
            "clock": {"utc": {"offsetSeconds": -3600}, "timer": {
                "hpet": {"present": false},
                "kvm": {"present": true},
                "pit": {"tickPolicy": "delay"},
                "rtc": {"tickPolicy": "catchup", "track": "guest"},
                "hyperv": {"present": true},
            }},
            "features": {
                "acpi": on, "apic": {"enabled": true, "endOfInterrupt": true},
                "hyperv": {
                    "relaxed": on, "vapic": on, "vpindex": on, "runtime": on, "synic": on, "synictimer": on, "reset": on,
                    "spinlocks": {"spinlocks": 8191}, "vendorid": {"vendorid": "a \"vendor\""},
                },
            },
            "devices": {
                "watchdog": {"name": "watchdog", "i6300esb": {"action": "poweroff"}},
                "disks": [
                    {"name": "sata", "volumeName": "v0", "disk": {"bus": "sata"}},
                    {"name": "virtio-readonly", "volumeName": "v1", "disk": {"bus": "virtio", "readonly": true}},
                    {"name": "scsi", "volumeName": "v2", "disk": {"bus": "scsi"}},
                    {"name": "usb", "volumeName": "v3", "disk": {"bus": "usb"}},
                    {"name": "cdrom", "volumeName": "v4", "cdrom": {"bus": "sata", "tray": "open"}},
                    {"name": "floppy", "volumeName": "v5", "floppy": {"readonly": true}},
                    {"name": "claim", "volumeName": "v6", "disk": {"bus": "virtio"}},
                ],
            },
        });
        let empty = |name| json!({"name": name, "emptyDisk": {"capacity": "1440Ki"}});
        let volumes = json!([
            empty("v0"), empty("v1"), empty("v2"), empty("v3"), empty("v4"), empty("v5"),
            {"name": "v6", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}},
        ]);
        let mut guest = Self::new(&domain, &volumes);
        guest.machine_type = "pc-q35-10.0".to_owned();
        guest.metadata.grace_period_seconds = 30;
        guest.metadata.deletion_deadline = Some("2026-11-22T15:00:00Z".parse().expect("a time"));
        guest
    }

    /// The same guest under emulation.
    pub(crate) fn emulated(self) -> Self {
        Self { acceleration: EMULATION, ..self }
    }

    pub(crate) fn render(&self) -> Result<String, RenderError> {
        render(&DomainInput {
            spec: &self.spec,
            metadata: &self.metadata,
            firmware_uuid: self
                .spec
                .firmware_uuid
                .unwrap_or(Uuid::from_u128(0x5d30_7ca9_b3ef_428c_8861_06e7_2d69_f223)),
            machine_type: &self.machine_type,
            acceleration: self.acceleration,
            emulator: Path::new("/usr/bin/qemu-system-x86_64"),
            disk_sources: &self.disk_sources,
            network: &self.network,
            nic_model: &self.nic_model,
            abi: self.abi.as_ref(),
            console_log: Path::new(&self.console_log),
        })
    }

    /// The rendered domain, which must have passed the allow-list.
    pub(crate) fn xml(&self) -> String {
        let xml = self.render().expect("renders");
        check_allowed(&xml, &allowed_paths()).expect("is allowed");
        xml
    }
}

/// Where the paths of these guests lie.
pub(crate) fn allowed_paths() -> AllowedPaths {
    AllowedPaths {
        disk_dirs: vec!["/var/lib/ovm".into()],
        block_devices: vec!["/dev/vg0/claim".into()],
        log_dirs: vec!["/var/log/ovm".into()],
        emulator: "/usr/bin/qemu-system-x86_64".into(),
    }
}

/// Every element of this name, as it is written.
pub(crate) fn elements<'a>(xml: &'a str, name: &str) -> Vec<&'a str> {
    let mut reader = quick_xml::reader::Reader::from_str(xml);
    let mut found = Vec::new();
    loop {
        let from = usize::try_from(reader.buffer_position()).expect("a short text");
        match reader.read_event().expect("well-formed") {
            Event::Start(start) if start.name().as_ref() == name => {
                reader.read_to_end(start.name()).expect("well-formed");
            }
            Event::Empty(start) if start.name().as_ref() == name => {}
            Event::Eof => return found,
            _ => continue,
        }
        found.push(&xml[from..usize::try_from(reader.buffer_position()).expect("a short text")]);
    }
}
