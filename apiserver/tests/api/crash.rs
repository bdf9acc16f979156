//! SIGKILL at any moment: what was acknowledged is there, nothing is half there.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use apiserver::ApiServer;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Server, WIDGETS, options, widget};

/// Set in the process that is to be killed: the directory that it writes to.
const VICTIM: &str = "APISERVER_CRASH_TEST_DIRECTORY";

/// Rounds of writing and killing on one directory.
const ROUNDS: usize = 4;

/// Not a scenario of its own: the victim of the one below. Writes pairs of owner and dependent, and prints each name
/// once both are acknowledged.
#[tokio::test]
async fn victim() {
    let Ok(directory) = std::env::var(VICTIM) else { return };
    let mut options = apiserver::Options::new(directory, ([127, 0, 0, 1], 0).into());
    options.custom_resources.push(crate::harness::definition());
    let server = Server { api: ApiServer::open(options).await.unwrap(), directory: Arc::new(TempDir::new().unwrap()) };
    for number in 0.. {
        let name = format!("p{}-{number}", std::process::id());
        server.create(WIDGETS, &widget(&name, 1)).await;
        server.merge(&format!("{WIDGETS}/{name}"), &json!({"spec": {"size": 2}})).await;
        println!("written {name}");
    }
}

fn start_victim(directory: &TempDir) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::victim", "--nocapture"])
        .env(VICTIM, directory.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn acknowledged_writes_survive_sigkill() {
    let directory = Arc::new(TempDir::new().unwrap());
    let mut written: Vec<String> = Vec::new();
    for round in 1..=ROUNDS {
        let mut child = start_victim(&directory);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let names = lines.filter_map(|line| line.strip_prefix("written ").map(str::to_owned));
        written.extend(names.take(round * 5));
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
    }
    assert_eq!(written.len(), (1..=ROUNDS).map(|round| round * 5).sum::<usize>());
    let server = Server { api: ApiServer::open(options(&directory)).await.unwrap(), directory };
    for name in &written {
        let (code, object) = server.get(&format!("{WIDGETS}/{name}")).await;
        assert_eq!((code, &object["spec"]["size"]), (200, &json!(2)), "{name}");
    }
    // The log tells the same story as the objects, and the file is sound.
    let (_, list) = server.get(WIDGETS).await;
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&resourceVersion=1")).await;
    let last = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut seen = std::collections::BTreeMap::new();
    loop {
        let (_, object) = watch.next().await.unwrap();
        seen.insert(object["metadata"]["name"].as_str().unwrap().to_owned(), object.clone());
        if object["metadata"]["resourceVersion"] == *last {
            break;
        }
    }
    let listed: Vec<_> = list["items"].as_array().unwrap().iter().collect();
    assert_eq!(listed.len(), seen.len());
    assert!(listed.iter().all(|object| seen.values().any(|other| other == *object)));
    let store = rusqlite::Connection::open(server.directory.path().join("data/store.db")).unwrap();
    let sound: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
}
