//! How long it takes to render the user guide's example as domain XML.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use api::admission::validate_vm_spec;
use api::v1alpha1::OfflineVirtualMachine;
use domain_xml::{
    Acceleration, DEFAULT_NIC_MODEL, DEFAULT_TB_CACHE_MIB, DiskFormat, DiskLayer, DiskSource, DomainInput, LayerKind,
    Metadata, Network, render,
};
use serde_json::json;
use uuid::Uuid;

use crate::figure::{Figure, Goal};
use crate::rounds::median;

const GOAL_MICROSECONDS: f64 = 10.0;
/// Renders of one round: long enough for the clock, and so short that a busy machine interrupts few rounds.
const RENDERS: u32 = 20;
const ROUNDS: usize = 501;

/// The time of one render, the median of many rounds.
///
/// # Errors
/// When the example cannot be rendered, which other tests would show too.
pub(crate) fn measure() -> Result<Figure> {
    let ovm: OfflineVirtualMachine = serde_json::from_value(example()).context("read the example")?;
    let spec = validate_vm_spec(&ovm.spec.template.spec, "spec")
        .map_err(|causes| anyhow::anyhow!("the example is not admitted: {causes:?}"))?;
    let metadata = Metadata {
        installation: "4a0e7d3c-1c9e-4f7e-9d0e-8f6f4d3a2b10".to_owned(),
        node: "node-1".to_owned(),
        namespace: "default".to_owned(),
        name: "ovm-cirros".to_owned(),
        uid: "60043358-4c58-11e8-8653-525500d15501".to_owned(),
        grace_period_seconds: 0,
        deletion_deadline: None,
    };
    let sources = sources();
    let input = DomainInput {
        spec: &spec,
        metadata: &metadata,
        firmware_uuid: Uuid::from_u128(0x5d30_7ca9_b3ef_428c_8861_06e7_2d69_f223),
        machine_type: "pc-q35-10.0",
        acceleration: Acceleration::Emulation { tb_cache_mib: DEFAULT_TB_CACHE_MIB },
        emulator: Path::new("/usr/bin/qemu-system-x86_64"),
        disk_sources: &sources,
        network: &Network::User,
        nic_model: DEFAULT_NIC_MODEL,
        abi: None,
        console_log: Path::new("/var/lib/ovm/vms/60043358-4c58-11e8-8653-525500d15501/console.log"),
    };
    ensure!(render(&input)?.contains("<name>default_ovm-cirros</name>"), "the example's XML is not its own");
    let mut rounds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..RENDERS {
            black_box(render(black_box(&input))?);
        }
        rounds.push(begun.elapsed() / RENDERS);
    }
    let value = median(rounds).context("there are no rounds")?.as_secs_f64() * 1e6;
    Ok(Figure { name: "render", value, unit: "us", floor: None, goal: Goal::AtMost(GOAL_MICROSECONDS) })
}

/// The user guide's example.
fn example() -> serde_json::Value {
    json!({
        "apiVersion": "kubevirt.io/v1alpha1",
        "kind": "OfflineVirtualMachine",
        "metadata": {"name": "ovm-cirros", "namespace": "default"},
        "spec": {"running": true, "template": {"metadata": {"labels": {"kubevirt.io/ovm": "ovm-cirros"}}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "domain": {
                "machine": {"type": ""},
                "resources": {"requests": {"memory": "64M"}},
                "devices": {"disks": [
                    {"name": "registrydisk", "volumeName": "registryvolume", "disk": {"bus": "virtio"}},
                    {"name": "cloudinitdisk", "volumeName": "cloudinitvolume", "disk": {"bus": "virtio"}},
                ]},
            },
            "volumes": [
                {"name": "registryvolume", "registryDisk": {"image": "kubevirt/cirros-registry-disk-demo:latest"}},
                {"name": "cloudinitvolume", "cloudInitNoCloud": {"userData": "#!/bin/sh\n\necho 'printed from cloud-init userdata'\n"}},
            ],
        }}},
    })
}

fn sources() -> BTreeMap<String, DiskSource> {
    let directory = Path::new("/var/lib/ovm/vms/60043358-4c58-11e8-8653-525500d15501");
    let base = DiskLayer {
        kind: LayerKind::File,
        path: "/var/lib/ovm/images/blobs/sha256-b43cf464f00aa5e11f99811e7ed69b1fd2d64dace23039a058d51169d986952d.img"
            .into(),
        format: DiskFormat::Raw,
    };
    BTreeMap::from([
        ("registryvolume".to_owned(), DiskSource::file(directory.join("disk-0.qcow2"), DiskFormat::Qcow2).over(base)),
        ("cloudinitvolume".to_owned(), DiskSource::file(directory.join("seed-1.iso"), DiskFormat::Raw)),
    ])
}
