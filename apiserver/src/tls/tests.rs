//! Keys and certificates: kept from start to start, made anew where address or authority have changed, private.

use std::os::unix::fs::PermissionsExt;

use super::*;

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn server_pem(directory: &Path) -> String {
    std::fs::read_to_string(directory.join(DIRECTORY).join("server.crt")).unwrap()
}

#[test]
fn a_second_start_keeps_the_certificates_of_the_first() {
    let directory = tempfile::tempdir().unwrap();
    Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    let first = server_pem(directory.path());
    Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    assert_eq!(server_pem(directory.path()), first);
}

#[test]
fn another_listen_address_gets_another_server_certificate() {
    let directory = tempfile::tempdir().unwrap();
    Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    let first = server_pem(directory.path());
    let identity = Identity::load_or_make(directory.path(), "192.0.2.7".parse().unwrap(), &[]).unwrap();
    assert_ne!(server_pem(directory.path()), first);
    identity.acceptor().unwrap();
}

#[test]
fn a_lost_authority_takes_its_certificates_with_it() {
    let directory = tempfile::tempdir().unwrap();
    Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    let first = server_pem(directory.path());
    std::fs::remove_file(directory.path().join(DIRECTORY).join("ca.crt")).unwrap();
    Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    assert_ne!(server_pem(directory.path()), first);
}

#[test]
fn keys_and_kubeconfig_are_private_and_a_damaged_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    let kubeconfig = identity.write_kubeconfig(directory.path(), "127.0.0.1:6443".parse().unwrap()).unwrap();
    let key = directory.path().join(DIRECTORY).join("ca.key");
    for file in [&kubeconfig, &key] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    assert!(std::fs::read_to_string(&kubeconfig).unwrap().contains("server: https://127.0.0.1:6443"));
    std::fs::write(&key, "no key").unwrap();
    let error = Identity::load_or_make(directory.path(), LOOPBACK, &[]).err().unwrap();
    assert!(error.to_string().contains("ca.crt"), "{error}");
}

#[test]
fn what_kubectl_config_wrote_into_the_kubeconfig_stays_while_it_leads_here() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    let write = |address: &str| {
        let path = identity.write_kubeconfig(directory.path(), address.parse().unwrap()).unwrap();
        (std::fs::read_to_string(&path).unwrap(), path)
    };
    let (text, path) = write("127.0.0.1:6443");
    std::fs::write(&path, text.replace("namespace: default", "namespace: mine")).unwrap();
    assert!(write("127.0.0.1:6443").0.contains("namespace: mine"));
    let moved = write("127.0.0.1:644").0;
    assert!(moved.contains("server: https://127.0.0.1:644\n") && !moved.contains("mine"), "{moved}");
    std::fs::write(&path, text.replace("client-key-data: ", "client-key-data: AAAA")).unwrap();
    assert!(write("127.0.0.1:6443").0 == text, "another key is replaced");
}

#[test]
fn a_server_is_known_by_its_other_names_too() {
    let directory = tempfile::tempdir().unwrap();
    Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    let first = server_pem(directory.path());
    let names = ["control.example.com".to_owned(), "192.0.2.7".to_owned()];
    Identity::load_or_make(directory.path(), LOOPBACK, &names).unwrap();
    let second = server_pem(directory.path());
    assert_ne!(second, first);
    Identity::load_or_make(directory.path(), LOOPBACK, &names).unwrap();
    assert_eq!(server_pem(directory.path()), second);
    let at = "0.0.0.0:6443".parse().unwrap();
    assert_eq!(url(at, Some("control.example.com")), "https://control.example.com:6443");
    assert_eq!(url(at, None), "https://127.0.0.1:6443");
}

#[test]
fn a_group_reads_its_own_kubeconfig_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::load_or_make(directory.path(), LOOPBACK, &[]).unwrap();
    let group = nix::unistd::getgid().as_raw();
    for _ in 0..2 {
        identity.write_group_kubeconfig(directory.path(), "127.0.0.1:6443".parse().unwrap(), group).unwrap();
    }
    let file = directory.path().join("group.kubeconfig");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_server_that_runs_for_long_renews_what_it_shows_and_what_administrators_have() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = Identity::load_or_make(path, LOOPBACK, &[]).unwrap();
    let address = "127.0.0.1:6443".parse().unwrap();
    let read = |file: PathBuf| std::fs::read_to_string(file).unwrap();
    let before = read(first.write_kubeconfig(path, address).unwrap());
    let after = |days| OffsetDateTime::now_utc() + time::Duration::days(days);
    let early = first.renewed(path, LOOPBACK, &[], after(540)).unwrap();
    assert!(early.shows_same(&first));
    assert_eq!(read(early.write_kubeconfig(path, address).unwrap()), before);
    let late = first.renewed(path, LOOPBACK, &[], after(560)).unwrap();
    assert!(!late.shows_same(&first));
    assert_ne!(read(late.write_kubeconfig(path, address).unwrap()), before);
    assert_eq!(late.authority_pem(), first.authority_pem(), "clients go on trusting it");
    assert!(leaf::ends(&server_pem(path)).unwrap() > after(560 + 700));
}
