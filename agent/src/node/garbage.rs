//! Disks of VMs that nobody remembers: an agent that was killed between making them and anything that names their VM.

use std::collections::BTreeSet;

use uuid::Uuid;

/// Of the VMs with files here, those that nothing known on the node explains: candidates that the API must be asked about.
pub(super) fn unexplained(files: &[Uuid], known: &BTreeSet<String>) -> Vec<Uuid> {
    files.iter().copied().filter(|uid| !known.contains(&uid.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_nothing_explains_are_candidates() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(unexplained(&[a, b], &[a.to_string()].into()), [b]);
    }
}
