//! Journal tests: what survives a restart, a crash in the middle of a line, another boot.

use api::v1alpha1::Phase;
use jiff::Timestamp;
use plan::node::{FinalState, GuestKey};

use super::*;

const UUID: Uuid = Uuid::from_u128(7);

fn key() -> GuestKey {
    GuestKey { namespace: "ns".to_owned(), name: "vm".to_owned() }
}

fn end() -> FinalState {
    FinalState {
        phase: Phase::Succeeded,
        reason: "PoweredOff".to_owned(),
        message: "the guest powered off".to_owned(),
        at: Timestamp::from_second(1_000).unwrap(),
    }
}

fn open(directory: &Path, boot: &str) -> Journal {
    Journal::open(directory, boot.to_owned()).unwrap()
}

#[tokio::test]
async fn s6_a_start_outlives_the_agent_unsettled() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path(), "boot").start(&key(), "a", UUID, false).await.unwrap();
    let facts = open(directory.path(), "boot").of_guest(&key());
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0].start, Some(StartRecord { this_boot: true, settled: false, run_id: None }));
}

#[tokio::test]
async fn a_settled_start_keeps_its_run_and_another_boot_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), "boot");
    journal.start(&key(), "a", UUID, false).await.unwrap();
    journal.settle("a", Some(7)).await.unwrap();
    let facts = open(directory.path(), "other").of_guest(&key());
    assert_eq!(facts[0].start, Some(StartRecord { this_boot: false, settled: true, run_id: Some(7) }));
}

#[tokio::test]
async fn e4_the_firmware_uuid_of_a_start_outlives_the_agent_until_it_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), "boot");
    journal.start(&key(), "a", UUID, false).await.unwrap();
    journal.settle("a", Some(7)).await.unwrap();
    let journal = open(directory.path(), "boot");
    assert_eq!(journal.firmware_uuids(&key()), [UUID]);
    let other = GuestKey { namespace: "ns".to_owned(), name: "other".to_owned() };
    assert!(journal.firmware_uuids(&other).is_empty());
    journal.forget("a").await.unwrap();
    assert!(journal.firmware_uuids(&key()).is_empty());
}

#[tokio::test]
async fn a_start_of_a_version_that_noted_no_uuid_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let line = r#"{"op":"start","uid":"a","namespace":"ns","name":"vm","boot":"boot","settled":true}"#;
    fs::write(directory.path().join(FILE), format!("{line}\n")).unwrap();
    let journal = open(directory.path(), "boot");
    assert_eq!((journal.of_guest(&key()).len(), journal.firmware_uuids(&key()).len()), (1, 0));
}

#[tokio::test]
async fn i3_a_final_state_outlives_the_agent_until_it_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), "boot");
    journal.start(&key(), "a", UUID, false).await.unwrap();
    journal.end(&key(), "a", &end()).await.unwrap();
    let journal = open(directory.path(), "boot");
    assert_eq!(journal.of_guest(&key())[0].end, Some(end()));
    journal.forget("a").await.unwrap();
    assert_eq!(open(directory.path(), "boot").guests(), BTreeSet::new());
}

#[tokio::test]
async fn a_line_cut_short_by_a_crash_is_dropped_and_the_rest_kept() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), "boot");
    journal.start(&key(), "a", UUID, false).await.unwrap();
    journal.end(&key(), "a", &end()).await.unwrap();
    let path = directory.path().join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    for cut in 1..text.len() {
        fs::write(&path, &text[..cut]).unwrap();
        let facts = open(directory.path(), "boot").of_guest(&key());
        let first_line = text.find('\n').unwrap();
        assert_eq!(facts.len(), usize::from(cut >= first_line), "cut at {cut}");
    }
}

#[tokio::test]
async fn a_broken_line_in_the_middle_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(FILE), "rubbish\n").unwrap();
    let error = Journal::open(directory.path(), "boot".to_owned()).unwrap_err();
    assert!(error.to_string().contains(FILE), "{error}");
}

#[tokio::test]
async fn the_file_does_not_grow_without_bound() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), "boot");
    for i in 0..=COMPACT_AFTER_LINES {
        journal.settle(&i.to_string(), None).await.unwrap();
    }
    assert!(fs::read_to_string(directory.path().join(FILE)).unwrap().lines().count() < COMPACT_AFTER_LINES);
}

#[tokio::test]
async fn half_a_line_of_a_full_disk_does_not_spoil_what_follows() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), "boot");
    journal.start(&key(), "a", UUID, false).await.unwrap();
    let mut half = OpenOptions::new().append(true).open(directory.path().join(FILE)).unwrap();
    half.write_all(b"{\"start\"").unwrap();
    let whole = std::mem::replace(
        &mut lock(&journal.inner.writer).file,
        File::options().append(true).open("/dev/full").unwrap(),
    );
    journal.end(&key(), "a", &end()).await.unwrap_err();
    lock(&journal.inner.writer).file = whole;
    journal.start(&key(), "b", UUID, false).await.unwrap();
    journal.end(&key(), "a", &end()).await.unwrap();
    let again = open(directory.path(), "boot");
    assert_eq!(again.of_guest(&key())[0].end, Some(end()));
    assert_eq!(again.vm_uids().len(), 2);
}

#[test]
fn who_reads_does_not_wait_for_the_disk() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path(), "boot");
    runtime.block_on(journal.start(&key(), "a", UUID, false)).unwrap();
    // As while a slow disk is waited for.
    let writer = lock(&journal.inner.writer);
    let appending = journal.clone();
    let append = runtime.spawn(async move { appending.end(&key(), "a", &end()).await });
    assert_eq!(journal.of_guest(&key())[0].end, None);
    assert_eq!((journal.guests().len(), journal.vm_uids().len(), journal.firmware_uuids(&key()).len()), (1, 1, 1));
    drop(writer);
    runtime.block_on(append).unwrap().unwrap();
    assert_eq!(journal.of_guest(&key())[0].end, Some(end()));
}
