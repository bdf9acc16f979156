//! Events, and what becomes of a connection whose daemon dies, hangs or is slow. Through a real libvirtd, with libvirt's test driver behind it.

use std::time::{Duration, Instant};

use agent::libvirt::{
    ConnectError, DefinedDetail, DomainState, Error, Event, GuestEvent, GuestEventKind, Libvirt, LibvirtOptions,
    Lifecycle, RunningReason, StartedDetail, StoppedDetail, Target, UndefinedDetail,
};
use tests::libvirtd::Signal;
use uuid::Uuid;

use super::support::{PATIENCE, connect, next, private_libvirtd, test_driver_uri};

async fn until_no_call_is_parked(libvirt: &Libvirt) {
    let begun = Instant::now();
    while libvirt.parked_calls() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the parked calls return");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn test_domain(name: &str, uuid: Uuid) -> String {
    format!(
        "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>8192</memory>\
         <os><type>hvm</type></os></domain>"
    )
}

#[tokio::test]
async fn each_step_of_a_domain_is_an_event() {
    let Some(daemon) = private_libvirtd("each_step_of_a_domain_is_an_event") else { return };
    let libvirt = connect(test_driver_uri(&daemon)).await;
    let mut events = libvirt.events();
    let uuid = Uuid::new_v4();
    libvirt.define(uuid, test_domain("steps", uuid)).await.unwrap();
    libvirt.start(uuid).await.unwrap();
    libvirt.destroy(uuid).await.unwrap();
    libvirt.undefine(uuid).await.unwrap();
    for lifecycle in [
        Lifecycle::Defined(DefinedDetail::Added),
        Lifecycle::Started(StartedDetail::Booted),
        Lifecycle::Stopped(StoppedDetail::Destroyed),
        Lifecycle::Undefined(UndefinedDetail::Removed),
    ] {
        let kind = GuestEventKind::Lifecycle(lifecycle);
        assert_eq!(next(&mut events).await, Event::Guest(GuestEvent { uuid, name: "steps".to_owned(), kind }));
    }
}

#[tokio::test]
async fn a_killed_daemon_is_noticed_and_its_successor_found_with_events_flowing() {
    let name = "a_killed_daemon_is_noticed_and_its_successor_found_with_events_flowing";
    let Some(mut daemon) = private_libvirtd(name) else { return };
    let libvirt = connect(test_driver_uri(&daemon)).await;
    let mut events = libvirt.events();
    for round in 0..3 {
        daemon.stop_daemon(Signal::Kill).unwrap();
        assert!(matches!(next(&mut events).await, Event::Disconnected(_)), "round {round}");
        assert!(!libvirt.is_connected());
        let error = libvirt.list_domains().await.unwrap_err();
        assert!(matches!(error, Error::Disconnected { sent: false, .. }) && !error.is_outcome_unknown(), "{error:?}");

        daemon.start_daemon().unwrap();
        assert_eq!(next(&mut events).await, Event::Reconnected, "round {round}");
        // Whoever acts on `Reconnected` gets every event from then on.
        let uuid = Uuid::new_v4();
        libvirt.define(uuid, test_domain("reconnected", uuid)).await.unwrap();
        let Event::Guest(event) = next(&mut events).await else { panic!("an event of a guest") };
        assert_eq!(
            (event.uuid, event.kind),
            (uuid, GuestEventKind::Lifecycle(Lifecycle::Defined(DefinedDetail::Added)))
        );
    }
    assert_eq!(libvirt.parked_calls(), 0);
}

#[tokio::test]
async fn a_hanging_daemon_costs_a_deadline_and_nothing_else() {
    let Some(mut daemon) = private_libvirtd("a_hanging_daemon_costs_a_deadline_and_nothing_else") else { return };
    let deadline = Duration::from_millis(300);
    let options = LibvirtOptions { call_deadline: deadline, ..LibvirtOptions::new(test_driver_uri(&daemon)) };
    let hanging = Libvirt::connect(options).await.unwrap();
    let other = connect("test:///default").await;
    let uuid = Uuid::new_v4();
    hanging.define(uuid, test_domain("hangs", uuid)).await.unwrap();
    hanging.start(uuid).await.unwrap();

    daemon.suspend_daemon().unwrap();
    let begun = Instant::now();
    let (list, state, elsewhere) =
        tokio::join!(hanging.list_domains(), hanging.domain_state(uuid), other.list_domains());
    assert!(begun.elapsed() < deadline * 5, "they wait side by side");
    elsewhere.expect("another libvirt is not concerned");
    let list = list.unwrap_err();
    assert!(matches!(list, Error::Deadline { .. }) && list.is_outcome_unknown(), "{list:?}");
    assert!(matches!(state, Err(Error::Deadline { .. })), "{state:?}");
    assert_eq!(hanging.parked_calls(), 2);
    assert_eq!(hanging.unanswered(&Target::Domain(uuid)), ["read the state of"]);
    let again = hanging.domain_state(uuid).await.unwrap_err();
    assert!(matches!(again, Error::Stuck { .. }), "no second thread for the same question: {again:?}");
    assert!(matches!(hanging.probe().await, Err(Error::Deadline { .. })), "a probe finds out");
    assert!(hanging.is_connected(), "a hang of a second is not a lost connection");

    daemon.resume_daemon().unwrap();
    until_no_call_is_parked(&hanging).await;
    assert_eq!(hanging.domain_state(uuid).await.unwrap(), DomainState::Running(RunningReason::Booted));
}

#[tokio::test]
async fn a_daemon_that_hangs_for_long_loses_the_connection_and_frees_its_threads() {
    let name = "a_daemon_that_hangs_for_long_loses_the_connection_and_frees_its_threads";
    let Some(mut daemon) = private_libvirtd(name) else { return };
    let options = LibvirtOptions {
        call_deadline: Duration::from_millis(300),
        keepalive_interval: Duration::from_secs(1),
        ..LibvirtOptions::new(test_driver_uri(&daemon))
    };
    let libvirt = Libvirt::connect(options).await.unwrap();
    let mut events = libvirt.events();
    daemon.suspend_daemon().unwrap();
    assert!(matches!(libvirt.list_domains().await, Err(Error::Deadline { .. })));
    let disconnected = next(&mut events).await;
    assert!(matches!(disconnected, Event::Disconnected(_)), "{disconnected:?}");
    until_no_call_is_parked(&libvirt).await;
    daemon.resume_daemon().unwrap();
    assert_eq!(next(&mut events).await, Event::Reconnected);
    libvirt.list_domains().await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_hangs_from_the_start_is_an_error_with_a_deadline() {
    let Some(mut daemon) = private_libvirtd("a_daemon_that_hangs_from_the_start_is_an_error_with_a_deadline") else {
        return;
    };
    daemon.suspend_daemon().unwrap();
    let options =
        LibvirtOptions { call_deadline: Duration::from_millis(300), ..LibvirtOptions::new(test_driver_uri(&daemon)) };
    let error = Libvirt::connect(options).await.unwrap_err();
    assert_eq!(error.reason(), "LibvirtDeadline");
    assert!(error.to_string().contains("systemctl restart libvirtd"), "{error}");
    daemon.resume_daemon().unwrap();
}

#[tokio::test]
async fn a_uri_that_nobody_serves_says_what_to_do() {
    let Some(daemon) = private_libvirtd("a_uri_that_nobody_serves_says_what_to_do") else { return };
    let uri = format!("nonsense+unix:///system?socket={}", daemon.socket().display());
    let error = Libvirt::connect(LibvirtOptions::new(&uri)).await.unwrap_err();
    assert!(matches!(error, ConnectError::BadUri { .. }), "{error:?}");
    assert!(error.to_string().contains(&uri) && error.to_string().contains("--libvirt-uri"), "{error}");
}

#[tokio::test]
async fn dropping_the_handle_closes_the_connection() {
    let Some(daemon) = private_libvirtd("dropping_the_handle_closes_the_connection") else { return };
    // As this daemon counts them: other tests talk to daemons of their own meanwhile.
    let admin = format!("libvirtd:///system?socket={}", daemon.socket().with_file_name("libvirt-admin-sock").display());
    let connections = || {
        let listed =
            std::process::Command::new("virt-admin").args(["-c", &admin, "client-list", "libvirtd"]).output().unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.contains("unix")).count()
    };
    let before = connections();
    let libvirt = connect(test_driver_uri(&daemon)).await;
    let clone = libvirt.clone();
    assert_eq!(connections(), before + 1);
    let mut events = libvirt.events();
    drop(libvirt);
    clone.list_domains().await.expect("a clone keeps it open");
    drop(clone);
    assert_eq!(tokio::time::timeout(PATIENCE, events.next()).await.unwrap(), None, "events end with the handle");
    let begun = Instant::now();
    while connections() > before {
        assert!(begun.elapsed() < PATIENCE, "the connection closes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
