//! The store alone: versions that count on, jobs that are whole or nothing, the log of changes, what expires.

use serde_json::json;
use tempfile::TempDir;

use super::log::LOG_WINDOW;
use super::*;
use crate::object::Object;

fn open(directory: &TempDir) -> Store {
    let (changes, _) = tokio::sync::mpsc::unbounded_channel();
    Store::open(&directory.path().join("store.db"), changes).unwrap()
}

fn key(name: &str) -> Key {
    Key { resource: "things".into(), namespace: String::new(), name: name.to_owned() }
}

fn object(name: &str) -> Object {
    Object::new(json!({"metadata": {"name": name, "uid": format!("uid-{name}")}})).unwrap()
}

fn create(name: &str) -> Mutation {
    Mutation::Create { key: key(name), object: object(name), expires: None }
}

fn update(name: &str, version: u64) -> Mutation {
    Mutation::Update { key: key(name), version, object: object(name), before: None, expires: None }
}

#[tokio::test]
async fn versions_count_on_across_restarts() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let first = store.write_one(create("a")).await.unwrap();
    store.close().await;
    let store = open(&directory);
    assert_eq!(store.version(), first.version);
    let second = store.write_one(create("b")).await.unwrap();
    assert_eq!(second.version, first.version + 1);
    let text = String::from_utf8(second.json.to_vec()).unwrap();
    assert!(text.contains(&format!("\"resourceVersion\":\"{}\"", second.version)), "{text}");
    assert!(matches!(store.get(&key("b")).await, Ok(Some(stored)) if stored.json == second.json));
}

#[tokio::test]
async fn a_job_is_applied_whole_or_not_at_all() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.write_one(create("taken")).await.unwrap();
    let before = store.version();
    let refused = store.write(vec![create("new"), create("taken")]).await;
    assert!(matches!(refused, Err(WriteError::Exists)), "{refused:?}");
    assert!(store.get(&key("new")).await.unwrap().is_none());
    assert_eq!(store.version(), before, "no version was used up");
    assert!(matches!(store.write_one(update("taken", before + 7)).await, Err(WriteError::Changed)));
    assert!(matches!(store.write_one(update("nothing", 1)).await, Err(WriteError::Missing)));
}

#[tokio::test]
async fn jobs_in_one_commit_do_not_disturb_each_other() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let jobs = (0..40).map(|number| store.write_one(create(&format!("n{}", number % 20))));
    let results = futures::future::join_all(jobs).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 20, "each name is given once");
    assert_eq!(store.list("things", None).await.unwrap().items.len(), 20);
    let LogPage::Entries { entries, up_to } = store.log_after("things", None, 0).await.unwrap() else {
        panic!("the log is whole");
    };
    assert_eq!((entries.len(), up_to), (20, 20));
}

#[tokio::test]
async fn the_log_forgets_the_oldest_and_says_so() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    let mut version = store.write_one(create("a")).await.unwrap().version;
    let count = LOG_WINDOW + LOG_WINDOW / 8 + 1;
    let updates = (0..count).map(|_| {
        version += 1;
        update("a", version - 1)
    });
    store.write(updates.collect()).await.unwrap();
    let page = store.log_after("things", None, 1).await.unwrap();
    let LogPage::Expired { oldest } = page else { panic!("{page:?}") };
    assert_eq!(oldest, store.version() - LOG_WINDOW);
    let LogPage::Entries { entries, up_to } = store.log_after("things", None, oldest).await.unwrap() else {
        panic!("the window is there");
    };
    assert_eq!(up_to, oldest + u64::try_from(entries.len()).unwrap(), "a page at a time, without a hole");
}

#[tokio::test]
async fn what_has_expired_goes_and_watchers_hear_of_it() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    // The first write of a process sweeps, and then none does for a minute.
    store.write_one(create("first")).await.unwrap();
    let now = jiff::Timestamp::now().as_second();
    store.write_one(Mutation::Create { key: key("old"), object: object("old"), expires: Some(now - 1) }).await.unwrap();
    store
        .write_one(Mutation::Create { key: key("new"), object: object("new"), expires: Some(now + 60) })
        .await
        .unwrap();
    store.close().await;
    let store = open(&directory);
    let seen = store.version();
    store.write_one(create("other")).await.unwrap();
    assert!(store.get(&key("old")).await.unwrap().is_none());
    assert!(store.get(&key("new")).await.unwrap().is_some());
    let LogPage::Entries { entries, .. } = store.log_after("things", None, seen).await.unwrap() else {
        panic!("the log is whole");
    };
    let kinds: Vec<LogKind> = entries.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [LogKind::Added, LogKind::Deleted]);
}

#[tokio::test]
async fn nothing_is_written_after_close() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory);
    store.close().await;
    assert!(matches!(store.write_one(create("a")).await, Err(WriteError::Store(StoreError::Closed))));
}
