//! What `ovm-controller` says when it cannot start: one line that names the cause, and exit code 1.

#![expect(clippy::unwrap_used, reason = "what a test builds on must work, else it fails")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

fn controller(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ovm-controller"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

fn kubeconfig(directory: &tempfile::TempDir, text: &str) -> String {
    let path = directory.path().join("kubeconfig");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Of a server that is not there.
const NOBODY_LISTENS: &str = "\
    apiVersion: v1\n\
    clusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]\n\
    contexts: [{name: c, context: {cluster: c, user: u}}]\n\
    current-context: c\n\
    users: [{name: u, user: {}}]\n";

#[test]
fn it_says_in_one_line_why_it_cannot_start() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        (Some("not: [yaml"), "kubeconfig"),
        (Some("apiVersion: v1"), "failed to determine current context"),
        (None, "No such file or directory"),
    ];
    for (text, expected) in cases {
        let path = text.map_or("/nonexistent/kubeconfig".to_owned(), |text| kubeconfig(&directory, text));
        let output = controller(&["--kubeconfig", &path]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.starts_with("ovm-controller: ") && said.contains(expected), "{said}");
    }
}

#[test]
fn it_says_how_to_name_an_api_server() {
    let said = String::from_utf8(controller(&[]).stderr).unwrap();
    assert!(said.contains("--kubeconfig FILE") && said.contains("OVM_KUBECONFIG"), "{said}");
}

#[test]
fn an_api_server_that_is_away_is_waited_for_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = kubeconfig(&directory, NOBODY_LISTENS);
    let mut child = Command::new(env!("CARGO_BIN_EXE_ovm-controller"))
        .args(["--kubeconfig", &path])
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("https://127.0.0.1:1/"));
    let said = lines.next().unwrap();
    assert!(said.contains("Connection refused") && said.contains("trying again"), "{said}");
    assert_eq!(child.try_wait().unwrap(), None, "it goes on trying");
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let directory = tempfile::tempdir().unwrap();
    let path = kubeconfig(&directory, NOBODY_LISTENS);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = controller(&["--kubeconfig", &path, "--metrics-listen", &address]);
    let said = String::from_utf8(output.stderr).unwrap();
    let last = said.lines().last().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(last.contains(&address) && last.contains("--metrics-listen") && last.contains("in use"), "{said}");
}

#[test]
fn a_network_that_is_none_is_refused() {
    let output = controller(&["--network", "wifi"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("libvirt:NAME"));
}
