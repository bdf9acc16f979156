//! Who may use one disk at the same time.
//!
//! A guest believes that a disk is its own: two that write to one, or one that reads what another writes, end with a file system that neither can
//! read. So a disk has one guest, unless all of its guests only read it, or the claim says `ReadWriteMany` and the guests bring a file system (or
//! a database) that knows of the others.

use api::v1alpha1::VolumeStatus;
use api::validated::{DiskDevice, ValidatedSpec, VolumeSource};

/// A volume that many nodes may write to.
pub const READ_WRITE_MANY: &str = "ReadWriteMany";
/// A volume that many nodes may read.
pub const READ_ONLY_MANY: &str = "ReadOnlyMany";
/// A volume of one node.
pub const READ_WRITE_ONCE: &str = "ReadWriteOnce";
/// A volume of one guest.
pub const READ_WRITE_ONCE_POD: &str = "ReadWriteOncePod";

/// What one guest does with one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// It may write.
    pub writes: bool,
    /// It knows that others may write too: the claim is `ReadWriteMany`.
    pub shared: bool,
}

impl DiskUse {
    /// Whether two guests may not have the disk at the same time.
    pub fn conflicts_with(self, other: Self) -> bool {
        (self.writes || other.writes) && !(self.shared && other.shared)
    }

    /// What a guest does with a volume of its spec that is on a claim; none for a volume that is on none. `access_modes` are the claim's.
    pub fn of_volume(spec: &ValidatedSpec, index: usize, access_modes: &[String]) -> Option<Self> {
        let has = |mode: &str| access_modes.iter().any(|one| one == mode);
        let may_write = has(READ_WRITE_ONCE) || has(READ_WRITE_MANY) || has(READ_WRITE_ONCE_POD);
        let volume = spec.volumes.get(index)?;
        match &volume.source {
            VolumeSource::PersistentVolumeClaim { read_only, .. } => {
                let mut devices = spec.disks.iter().filter(|disk| disk.volume == index).map(|disk| disk.device);
                let writes = may_write && !read_only && devices.any(writes);
                Some(Self { writes, shared: has(READ_WRITE_MANY) })
            }
            // Its guest writes to a layer of its own.
            VolumeSource::Ephemeral { .. } => Some(Self { writes: false, shared: false }),
            VolumeSource::RegistryDisk { .. } | VolumeSource::CloudInitNoCloud(_) | VolumeSource::EmptyDisk { .. } => {
                None
            }
        }
    }

    /// As [`DiskUse::of_volume`], for what a VM's status says of its volumes: name of the volume and use.
    pub fn of_status<'a>(spec: &ValidatedSpec, volumes: &'a [VolumeStatus]) -> Vec<(&'a VolumeStatus, Self)> {
        let index = |name: &str| spec.volumes.iter().position(|volume| volume.name == name);
        volumes
            .iter()
            .filter_map(|known| Some((known, Self::of_volume(spec, index(&known.name)?, &known.access_modes)?)))
            .collect()
    }
}

/// A disk that a guest has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What the disk is on its host, whatever its path.
    pub disk: String,
    /// What the guest does with it.
    pub usage: DiskUse,
    /// The guest, for people.
    pub holder: String,
}

/// The first of the disks that a guest asks for, by its place among them, that it may not have, and who has it. `held` is what others have.
pub fn find_conflict<'a>(
    asked: impl IntoIterator<Item = (&'a str, DiskUse)>,
    held: &[Holding],
) -> Option<(usize, String)> {
    let mut earlier: Vec<(&str, DiskUse)> = Vec::new();
    for (index, (disk, usage)) in asked.into_iter().enumerate() {
        let other = held.iter().find(|one| one.disk == disk && one.usage.conflicts_with(usage));
        if let Some(other) = other {
            return Some((index, other.holder.clone()));
        }
        if earlier.iter().any(|(one, its)| *one == disk && its.conflicts_with(usage)) {
            return Some((index, "another volume of this VirtualMachine".to_owned()));
        }
        earlier.push((disk, usage));
    }
    None
}

/// A CD-ROM cannot be written to, whatever its spec says.
fn writes(device: DiskDevice) -> bool {
    match device {
        DiskDevice::Disk { readonly, .. } | DiskDevice::Lun { readonly, .. } | DiskDevice::Floppy { readonly, .. } => {
            !readonly
        }
        DiskDevice::Cdrom { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_writer_has_a_disk_for_itself_and_readers_share_it() {
        let reader = DiskUse { writes: false, shared: false };
        let writer = DiskUse { writes: true, shared: false };
        let many = DiskUse { writes: true, shared: true };
        let reader_of_many = DiskUse { writes: false, shared: true };
        for (one, other, conflict) in [
            (reader, reader, false),
            (reader, writer, true),
            (writer, writer, true),
            (many, many, false),
            (many, reader_of_many, false),
            // An ephemeral layer over a disk that somebody writes to would see it change.
            (many, reader, true),
            (many, writer, true),
        ] {
            assert_eq!(one.conflicts_with(other), conflict, "{one:?} {other:?}");
            assert_eq!(other.conflicts_with(one), conflict, "{other:?} {one:?}");
        }
    }

    #[test]
    fn a_disk_is_refused_to_the_second_guest_and_to_the_second_volume_of_one() {
        let writer = DiskUse { writes: true, shared: false };
        let reader = DiskUse::default();
        let held = [
            Holding { disk: "a".to_owned(), usage: writer, holder: "one".to_owned() },
            Holding { disk: "b".to_owned(), usage: reader, holder: "two".to_owned() },
        ];
        assert_eq!(find_conflict([("c", writer), ("b", reader)], &held), None);
        assert_eq!(find_conflict([("c", writer), ("a", reader)], &held), Some((1, "one".to_owned())));
        assert_eq!(find_conflict([("b", writer)], &held), Some((0, "two".to_owned())));
        let twice = find_conflict([("c", reader), ("c", writer)], &held);
        assert_eq!(twice, Some((1, "another volume of this VirtualMachine".to_owned())));
        assert_eq!(find_conflict([("c", reader), ("c", reader)], &held), None);
    }
}
