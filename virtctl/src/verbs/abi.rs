//! `virtctl abi`: what a guest sees of its machine, as it is on record; what changed last; and the reset, which forgets it all.

use std::fmt::Write as _;

use api::abi::{record_label, record_name, reset_up_to};
use api::names::{ABI_OF_LABEL, ABI_RESET_ANNOTATION};
use api::v1alpha1::{AbiDevice, AbiRecord, OfflineVirtualMachine, VirtualMachine};
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::Api;
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::cli::{AbiVerb, TargetArgs};
use crate::connection::Connection;
use crate::error::Error;
use crate::target;

/// A record, and the object that holds it.
struct Record {
    name: String,
    number: i64,
    content: AbiRecord,
}

/// Shows or compares a guest's records, or has them forgotten.
///
/// # Errors
/// No records, one that cannot be read, or an API error.
pub(crate) async fn run(connection: &Connection, verb: &AbiVerb) -> Result<(), Error> {
    match verb {
        AbiVerb::Show(args) => show(connection, args).await,
        AbiVerb::Diff(args) => diff(connection, args).await,
        AbiVerb::Reset(args) => reset(connection, args).await,
    }
}

async fn show(connection: &Connection, args: &TargetArgs) -> Result<(), Error> {
    let name = target::offline_virtual_machine("abi show", &args.words)?;
    let records = read(connection, &name).await?;
    match records.last() {
        Some(newest) => {
            print!("{}", describe(newest));
            Ok(())
        }
        None => Err(no_record(connection, name).await),
    }
}

async fn diff(connection: &Connection, args: &TargetArgs) -> Result<(), Error> {
    let name = target::offline_virtual_machine("abi diff", &args.words)?;
    let records = read(connection, &name).await?;
    match records.as_slice() {
        [] => Err(no_record(connection, name).await),
        [only] => {
            println!("{} is the only record: nothing has changed since", only.name);
            Ok(())
        }
        [.., before, newest] => {
            println!("{} -> {}", before.name, newest.name);
            for line in before.content.changes(&newest.content) {
                println!("  {line}");
            }
            Ok(())
        }
    }
}

/// Says on the OfflineVirtualMachine that no record of up to now counts; the controller deletes them. A running guest keeps what it has until it is started
/// again. What it may be about to have recorded, one number further, is forgotten too.
async fn reset(connection: &Connection, args: &TargetArgs) -> Result<(), Error> {
    let name = target::offline_virtual_machine("abi reset", &args.words)?;
    let ovms: Api<OfflineVirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let ovm = ovms.get(&name).await.map_err(|error| Error::FetchOvm(connection.explain(&error)))?;
    let vms: Api<VirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let vm = vms.get_opt(&name).await.map_err(|error| Error::FetchVm(connection.explain(&error)))?;
    let recorded = list(connection, &name).await?.last().map(|newest| newest.revision);
    let bound = vm.and_then(|vm| vm.status?.abi?.revision);
    let newest = [recorded, bound, reset_up_to(&ovm.metadata).ok()].into_iter().flatten().max().unwrap_or(0);
    let patch = Patch::Merge(json!({"metadata": {"annotations": {ABI_RESET_ANNOTATION: (newest + 1).to_string()}}}));
    ovms.patch(&name, &PatchParams::default(), &patch)
        .await
        .map_err(|error| Error::UpdateOvm(connection.explain(&error)))?;
    Ok(())
}

fn revisions(connection: &Connection) -> Api<ControllerRevision> {
    Api::namespaced(connection.client.clone(), &connection.namespace)
}

/// The objects that hold the records of an OfflineVirtualMachine, by number.
async fn list(connection: &Connection, ovm: &str) -> Result<Vec<ControllerRevision>, Error> {
    let labelled = ListParams::default().labels(&format!("{ABI_OF_LABEL}={}", record_label(ovm)));
    let listed = revisions(connection).list(&labelled).await;
    let mut objects = listed.map_err(|error| Error::Records(connection.explain(&error)))?.items;
    objects.retain(|object| object.metadata.name.as_deref() == Some(&record_name(ovm, object.revision)));
    objects.sort_by_key(|object| object.revision);
    Ok(objects)
}

/// The records that count: those of before a reset do not, though the next start is what deletes them.
async fn read(connection: &Connection, ovm: &str) -> Result<Vec<Record>, Error> {
    let ovms: Api<OfflineVirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    let found = ovms.get_opt(ovm).await.map_err(|error| Error::FetchOvm(connection.explain(&error)))?;
    let reset = found.and_then(|ovm| reset_up_to(&ovm.metadata).ok()).unwrap_or(0);
    let mut objects = list(connection, ovm).await?;
    objects.retain(|object| object.revision > reset);
    let read = |object: ControllerRevision| {
        let name = object.metadata.name.unwrap_or_default();
        let data = object.data.map(|data| data.0).unwrap_or_default();
        let content = AbiRecord::read(&data).map_err(|source| Error::Record { name: name.clone(), source })?;
        Ok(Record { name, number: object.revision, content })
    };
    objects.into_iter().map(read).collect()
}

/// Why there is no record: records may be there before their OfflineVirtualMachine is, so only now is it asked for.
async fn no_record(connection: &Connection, name: String) -> Error {
    let ovms: Api<OfflineVirtualMachine> = Api::namespaced(connection.client.clone(), &connection.namespace);
    match ovms.get(&name).await {
        Ok(_) => Error::NoRecord(name),
        Err(error) => Error::FetchOvm(connection.explain(&error)),
    }
}

/// The record for people.
fn describe(one: &Record) -> String {
    let Record { name, number, content: record } = one;
    let none = "none".to_owned();
    let mut text = String::new();
    let facts = [
        ("Record", &format!("{name} (number {number})")),
        ("Firmware UUID", &record.firmware_uuid),
        ("Serial number", record.serial.as_ref().unwrap_or(&none)),
        ("Machine type", &record.machine_type),
        ("CPU model", record.cpu_model.as_ref().unwrap_or(&none)),
    ];
    for (what, value) in facts {
        let _ = writeln!(text, "{:<15}{value}", format!("{what}:")); // writing to a String cannot fail
    }
    let width = record.devices.iter().map(|device| device.alias.len()).max().unwrap_or(0).max("DEVICE".len()) + 2;
    let _ = writeln!(text, "\n{:<width$}{:<20}DETAILS", "DEVICE", "ADDRESS");
    for device in &record.devices {
        let address = device.address.as_deref().unwrap_or("-");
        let line = format!("{:<width$}{address:<20}{}", device.alias, details(device));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn details(device: &AbiDevice) -> String {
    let port = device.port.map(|port| format!("port {port}"));
    let bus = device.bus.as_ref().zip(device.target.as_ref()).map(|(bus, target)| format!("{target} on {bus}"));
    [bus, device.model.clone(), device.mac.clone(), port].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_described_a_line_a_device() {
        let device = |alias: &str, address: Option<&str>| AbiDevice {
            alias: alias.to_owned(),
            address: address.map(str::to_owned),
            ..AbiDevice::default()
        };
        let disk = AbiDevice {
            bus: Some("virtio".to_owned()),
            target: Some("vda".to_owned()),
            ..device("ua-disk-root", Some("pci:0000:03:00.0"))
        };
        let card = AbiDevice {
            model: Some("e1000".to_owned()),
            mac: Some("02:00:00:00:00:01".to_owned()),
            ..device("ua-net0", Some("pci:0000:08:01.0"))
        };
        let record = AbiRecord {
            version: 1,
            firmware_uuid: "5d307ca9-b3ef-428c-8861-06e72d69f223".to_owned(),
            serial: None,
            machine_type: "pc-q35-10.0".to_owned(),
            cpu_model: Some("qemu64".to_owned()),
            devices: vec![disk, card, device("ua-serial0", None)],
        };
        let expected = "\
Record:        vm-abi-2 (number 2)
Firmware UUID: 5d307ca9-b3ef-428c-8861-06e72d69f223
Serial number: none
Machine type:  pc-q35-10.0
CPU model:     qemu64

DEVICE        ADDRESS             DETAILS
ua-disk-root  pci:0000:03:00.0    vda on virtio
ua-net0       pci:0000:08:01.0    e1000, 02:00:00:00:00:01
ua-serial0    -
";
        assert_eq!(describe(&Record { name: "vm-abi-2".to_owned(), number: 2, content: record }), expected);
    }
}
