//! Starts that fail: one line each, with the object, its value and what to do.

use std::sync::Arc;

use apiserver::{ApiServer, Options};
use tempfile::TempDir;

use crate::harness::{Server, definition, options};

#[tokio::test]
async fn a_data_directory_serves_one_process() {
    let server = Server::start().await;
    let error = ApiServer::open(options(&server.directory)).await.err().unwrap();
    let path = server.directory.path().join("data");
    assert_eq!(
        error.to_string(),
        format!(
            "data directory {} is in use by another process (pid {}): stop that process, or choose another directory \
             with --data-dir",
            path.display(),
            std::process::id()
        )
    );
    assert_eq!(error.reason(), "DataDirInUse");
    let directory = Arc::clone(&server.directory);
    server.api.shutdown().await;
    drop(server);
    ApiServer::open(options(&directory)).await.unwrap();
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = TempDir::new().unwrap();
    let address = taken.local_addr().unwrap();
    let server = ApiServer::open(Options::new(directory.path().join("data"), address)).await.unwrap();
    let error = server.listen().await.unwrap_err();
    assert!(error.to_string().contains(&address.to_string()) && error.to_string().contains("--listen"), "{error}");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_is_named() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = ApiServer::open(Options::new(file.join("data"), ([127, 0, 0, 1], 0).into())).await.err().unwrap();
    assert!(error.to_string().contains("file/data") && error.to_string().contains("--data-dir"), "{error}");
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_left_alone() {
    let server = Server::start().await;
    let directory = Arc::clone(&server.directory);
    server.api.shutdown().await;
    drop(server);
    let store = rusqlite::Connection::open(directory.path().join("data/store.db")).unwrap();
    store.pragma_update(None, "user_version", 99).unwrap();
    drop(store);
    let error = ApiServer::open(options(&directory)).await.err().unwrap();
    assert!(error.to_string().contains("schema 99"), "{error}");
}

#[tokio::test]
async fn a_definition_is_upgraded_in_place_and_a_bad_one_named() {
    let server = Server::start().await;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.test.io";
    let (_, before) = server.get(crd).await;
    let directory = Arc::clone(&server.directory);
    server.api.shutdown().await;
    drop(server);
    let mut newer = options(&directory);
    newer.custom_resources[0].spec.names.short_names = Some(vec!["wdg".into()]);
    let api = ApiServer::open(newer).await.unwrap();
    let server = Server { api, directory };
    let (_, after) = server.get(crd).await;
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(
        (&after["metadata"]["generation"], &after["spec"]["names"]["shortNames"][0]),
        (&2.into(), &"wdg".into())
    );
    let mut bad = Options::new(server.directory.path().join("other"), ([127, 0, 0, 1], 0).into());
    let mut crd = definition();
    crd.metadata.name = Some("wrong.test.io".into());
    bad.custom_resources.push(crd);
    let error = ApiServer::open(bad).await.err().unwrap();
    assert!(error.to_string().contains("metadata.name must be widgets.test.io"), "{error}");
}

#[tokio::test]
async fn a_group_that_is_no_longer_named_loses_its_kubeconfig() {
    let directory = Arc::new(TempDir::new().unwrap());
    let files =
        ["group.kubeconfig", "pki/group.crt", "pki/group.key"].map(|file| directory.path().join("data").join(file));
    let mut with_group = options(&directory);
    with_group.kubeconfig_group = Some(nix::unistd::getgid().as_raw());
    for (options, is_there) in [(with_group, true), (options(&directory), false)] {
        let server = ApiServer::open(options).await.unwrap();
        server.listen().await.unwrap();
        for file in &files {
            assert_eq!(file.exists(), is_there, "{}", file.display());
        }
        server.shutdown().await;
    }
}
