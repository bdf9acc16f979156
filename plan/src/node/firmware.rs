//! Which firmware UUID a guest gets: the same at every start, without a word in its spec.

use uuid::Uuid;

use super::GuestKey;

/// What decides a guest's firmware UUID.
#[derive(Clone, Copy, Debug)]
pub struct FirmwareFacts<'a> {
    /// UID of the cluster.
    pub cluster_uid: Uuid,
    /// The guest.
    pub key: &'a GuestKey,
    /// UID of the VirtualMachine.
    pub vm_uid: &'a str,
    /// An OfflineVirtualMachine controls it.
    pub has_controller: bool,
    /// The UUID in the spec.
    pub given: Option<Uuid>,
    /// The UUID in `VM.status.abi`.
    pub recorded: Option<&'a str>,
}

/// The UUID: the user's own, else the recorded one, else, for a VM of an OfflineVirtualMachine, one that follows from cluster, namespace and
/// name; a bare VM gets its own UID.
pub fn firmware_uuid(facts: &FirmwareFacts<'_>) -> Uuid {
    let derived = || Uuid::new_v5(&facts.cluster_uid, facts.key.to_string().as_bytes());
    let recorded = facts.recorded.and_then(|text| Uuid::parse_str(text).ok());
    let own = || Uuid::parse_str(facts.vm_uid).ok().filter(|_| !facts.has_controller);
    facts.given.or(recorded).or_else(own).unwrap_or_else(derived)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "11111111-2222-4333-8444-555555555555";

    fn key(namespace: &str) -> GuestKey {
        GuestKey { namespace: namespace.to_owned(), name: "vm".to_owned() }
    }

    fn facts(key: &GuestKey) -> FirmwareFacts<'_> {
        FirmwareFacts {
            cluster_uid: Uuid::from_u128(7),
            key,
            vm_uid: OWN,
            has_controller: true,
            given: None,
            recorded: None,
        }
    }

    #[test]
    fn i4_uuid_follows_from_cluster_namespace_and_name() {
        let (a, b) = (key("a"), key("b"));
        let uuid = firmware_uuid(&facts(&a));
        let recreated = FirmwareFacts { vm_uid: "99999999-2222-4333-8444-555555555555", ..facts(&a) };
        assert_eq!(uuid, firmware_uuid(&recreated), "the same after delete and re-create");
        assert_ne!(uuid, firmware_uuid(&facts(&b)), "two namespaces, one name, two UUIDs");
        assert_ne!(
            uuid,
            firmware_uuid(&FirmwareFacts { cluster_uid: Uuid::from_u128(8), ..facts(&a) }),
            "two clusters, two UUIDs"
        );
    }

    #[test]
    fn given_beats_recorded_beats_derived() {
        let a = key("a");
        let (given, recorded) = (Uuid::from_u128(1), Uuid::from_u128(2).to_string());
        let both = FirmwareFacts { given: Some(given), recorded: Some(&recorded), ..facts(&a) };
        assert_eq!(firmware_uuid(&both), given);
        assert_eq!(firmware_uuid(&FirmwareFacts { given: None, ..both }).to_string(), recorded);
        assert_eq!(
            firmware_uuid(&FirmwareFacts { has_controller: false, ..facts(&a) }).to_string(),
            OWN,
            "a bare VM: its own UID"
        );
    }
}
