//! What needs no daemon: libvirt's test driver, inside our own process. Each oddity of crate `virt` has its test here.

use agent::libvirt::{
    ConnectError, DomainState, Error, Libvirt, LibvirtOptions, RunningReason, ShutOffReason, Target, Usability,
    VirtType, XmlView,
};
use uuid::Uuid;

use super::support::connect;

const URI: &str = "test:///default";

/// The test driver keeps one world per URI and process: each test has domains of its own in it.
async fn defined(libvirt: &Libvirt, name: &str) -> Uuid {
    let uuid = Uuid::new_v4();
    let xml = format!(
        "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>8192</memory>\
         <os><type>hvm</type></os></domain>"
    );
    assert_eq!(libvirt.define(uuid, xml).await.unwrap().name, name);
    uuid
}

#[tokio::test]
async fn a_domain_goes_through_its_life() {
    let libvirt = connect(URI).await;
    let uuid = defined(&libvirt, "life").await;
    let summary = libvirt.find_domain(uuid).await.unwrap().unwrap();
    assert_eq!(summary.state, DomainState::ShutOff(ShutOffReason::Unknown));
    assert_eq!((summary.id, summary.persistent, summary.autostart), (None, true, false));

    libvirt.start(uuid).await.unwrap();
    assert_eq!(libvirt.domain_state(uuid).await.unwrap(), DomainState::Running(RunningReason::Booted));
    let again = libvirt.start(uuid).await.unwrap_err();
    assert!(matches!(again, Error::Refused { .. }), "{again:?}");
    let listed = libvirt.list_domains().await.unwrap();
    let listed = listed.iter().find(|domain| domain.uuid == uuid).expect("it is in the list");
    assert_eq!(listed, &libvirt.find_domain_by_name("life").await.unwrap().unwrap(), "list and single read agree");
    assert!(listed.id.is_some());

    libvirt.destroy(uuid).await.unwrap();
    assert_eq!(libvirt.domain_state(uuid).await.unwrap(), DomainState::ShutOff(ShutOffReason::Destroyed));
    libvirt.undefine(uuid).await.unwrap();
    assert_eq!(libvirt.find_domain(uuid).await.unwrap(), None);
    assert_eq!(libvirt.find_domain_by_name("life").await.unwrap(), None);
}

#[tokio::test]
async fn a_vanished_domain_is_an_error_in_every_call() {
    let libvirt = connect(URI).await;
    let uuid = defined(&libvirt, "vanishes").await;
    libvirt.undefine(uuid).await.unwrap();
    let failures = [
        libvirt.domain_state(uuid).await.map(drop),
        libvirt.start(uuid).await,
        libvirt.shut_down(uuid).await,
        libvirt.destroy(uuid).await,
        libvirt.undefine(uuid).await,
        libvirt.disable_autostart(uuid).await,
        libvirt.set_metadata(uuid, "<a/>".to_owned()).await,
        libvirt.domain_xml(uuid, XmlView::Live).await.map(drop),
        libvirt.open_console(uuid).await.map(drop),
        libvirt.open_graphics(uuid).await.map(drop),
    ];
    for failure in failures {
        let error = failure.unwrap_err();
        assert!(error.is_no_domain(), "{error:?}");
        assert!(error.to_string().contains(&uuid.to_string()), "the message names the domain: {error}");
    }
}

#[tokio::test]
async fn an_interior_nul_is_an_error_and_not_a_panic() {
    let bad_uri = Libvirt::connect(LibvirtOptions::new("test:///def\0ault")).await.unwrap_err();
    assert!(matches!(bad_uri, ConnectError::BadUri { .. }), "{bad_uri:?}");

    let libvirt = connect(URI).await;
    let uuid = defined(&libvirt, "nul").await;
    for error in [
        libvirt.define(uuid, "<domain>\0</domain>".to_owned()).await.unwrap_err(),
        libvirt.find_domain_by_name("n\0l").await.unwrap_err(),
        libvirt.set_metadata(uuid, "<a>\0</a>".to_owned()).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Refused { .. }), "{error:?}");
    }
    let usability = libvirt.emulator("x86_64", VirtType::Qemu, "q3\0").await.unwrap();
    assert!(matches!(usability, Usability::Unusable(_)), "{usability:?}");
    libvirt.undefine(uuid).await.unwrap();
}

#[tokio::test]
async fn metadata_is_ours_alone_and_survives_a_start() {
    let libvirt = connect(URI).await;
    let uuid = defined(&libvirt, "metadata").await;
    assert_eq!(libvirt.find_domain(uuid).await.unwrap().unwrap().metadata, None);
    libvirt.set_metadata(uuid, "<vm grace='30'><uid>1</uid></vm>".to_owned()).await.unwrap();
    libvirt.start(uuid).await.unwrap();
    libvirt.set_metadata(uuid, "<vm grace='0'/>".to_owned()).await.unwrap();
    let live = libvirt.find_domain(uuid).await.unwrap().unwrap().metadata.unwrap();
    assert!(live.contains("grace=\"0\"") || live.contains("grace='0'"), "{live}");
    let defined = libvirt.domain_xml(uuid, XmlView::Defined).await.unwrap();
    assert!(defined.contains("xmlns:kubevirt=\"http://kubevirt.io\""), "{defined}");
    assert!(!defined.contains("uid>1<"), "the definition has it too: {defined}");
    libvirt.destroy(uuid).await.unwrap();
    libvirt.undefine(uuid).await.unwrap();
}

#[tokio::test]
async fn a_call_leaves_nothing_under_way() {
    let libvirt = connect(URI).await;
    libvirt.probe().await.unwrap();
    assert_eq!(libvirt.unanswered(&Target::Host), Vec::<&str>::new());
    assert_eq!(libvirt.parked_calls(), 0);
    let facts = libvirt.host_facts().await.unwrap();
    assert_eq!(facts.driver, "TEST");
    assert!(facts.memory_kib > 0 && facts.cpus > 0 && facts.libvirt.major >= 6, "{facts:?}");
}

#[tokio::test]
async fn a_missing_daemon_says_what_to_do() {
    let uri = "qemu+unix:///system?socket=/nonexistent/libvirt-sock";
    let error = Libvirt::connect(LibvirtOptions::new(uri)).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotRunning { .. }), "{error:?}");
    assert!(error.to_string().contains(uri) && error.to_string().contains("systemctl start libvirtd"), "{error}");
    assert_eq!(error.reason(), "LibvirtNotRunning");
}
