//! Tables of what fits where.

#![expect(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

use std::sync::Arc;
use std::time::Duration;

use api::names::{HYPERVISOR_TAINT, OUT_OF_SERVICE_TAINT, SCHEDULABLE_LABEL};
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PreferredSchedulingTerm, Taint,
};

use super::*;
use crate::cluster::{LEASE_EXPIRY, LeaseFact, NodeFacts};

const NOW: Now = Now { wall: jiff::Timestamp::UNIX_EPOCH, monotonic: Duration::from_hours(1) };

fn node(name: &str, change: impl FnOnce(&mut NodeFacts)) -> ObservedNode {
    let labels = [(SCHEDULABLE_LABEL, "true"), ("zone", "x"), ("cores", "8")];
    let mut facts = NodeFacts {
        name: name.to_owned(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        allocatable: Requests { memory_kib: 1 << 20, cpu_millis: 4000 },
        ..NodeFacts::default()
    };
    change(&mut facts);
    let lease = LeaseFact { version: Some("1".into()), since: NOW.monotonic, renewed: true };
    ObservedNode { facts: Arc::new(facts), lease, ..ObservedNode::default() }
}

fn taint(key: &str, value: Option<&str>, effect: &str) -> Taint {
    Taint { key: key.to_owned(), value: value.map(str::to_owned), effect: effect.to_owned(), ..Taint::default() }
}

fn toleration(key: &str, operator: &str, value: &str, effect: &str) -> Toleration {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Toleration {
        key: text(key),
        operator: text(operator),
        value: text(value),
        effect: text(effect),
        ..Toleration::default()
    }
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> NodeSelectorRequirement {
    NodeSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: Some(values.iter().map(|value| (*value).to_owned()).collect()),
    }
}

fn expressions(requirements: &[NodeSelectorRequirement]) -> NodeSelectorTerm {
    NodeSelectorTerm { match_expressions: Some(requirements.to_vec()), match_fields: None }
}

fn required(terms: Vec<NodeSelectorTerm>) -> NodeAffinity {
    NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector { node_selector_terms: terms }),
        ..NodeAffinity::default()
    }
}

fn small() -> Constraints<'static> {
    let requests = Requests { memory_kib: 200_000, cpu_millis: 100 };
    let volumes = VolumeConstraints::default();
    Constraints {
        selector: None,
        affinity: None,
        tolerations: &[],
        requests,
        pinned: None,
        machine_type: None,
        volumes,
    }
}

fn reason(constraints: &Constraints<'_>, node: ObservedNode) -> Option<Reason> {
    match choose(NOW, constraints, &[node]) {
        Ok(_) => None,
        Err(Misfit::NoNode(mut nodes)) => nodes.pop_first().map(|(_, reason)| reason),
        Err(misfit) => panic!("{misfit}"),
    }
}

#[test]
fn a_node_takes_guests_only_if_it_says_so_and_lives() {
    assert_eq!(reason(&small(), node("n", |_| {})), None);
    assert_eq!(reason(&small(), node("n", |facts| facts.labels.clear())), Some(Reason::NotSchedulable));
    let refused = node("n", |facts| drop(facts.labels.insert(SCHEDULABLE_LABEL.to_owned(), "false".to_owned())));
    assert_eq!(reason(&small(), refused), Some(Reason::NotSchedulable));
    assert_eq!(reason(&small(), node("n", |facts| facts.closed = true)), Some(Reason::Cordoned));
    let none = ObservedNode { lease: LeaseFact::default(), ..node("n", |_| {}) };
    assert_eq!(reason(&small(), none), Some(Reason::AgentSilent), "no Lease at all");
    let mut silent = node("n", |_| {});
    silent.lease.since = NOW.monotonic.checked_sub(LEASE_EXPIRY).unwrap();
    assert_eq!(reason(&small(), silent), Some(Reason::AgentSilent));
}

#[test]
fn taints_and_tolerations() {
    let cases: &[(&str, Taint, &[Toleration], bool)] = &[
        ("no toleration", taint("k", Some("v"), "NoSchedule"), &[], false),
        ("ours is ignored", taint(HYPERVISOR_TAINT, None, "NoSchedule"), &[], true),
        ("soft", taint("k", None, "PreferNoSchedule"), &[], true),
        ("NoExecute too", taint("k", None, "NoExecute"), &[], false),
        ("equal", taint("k", Some("v"), "NoSchedule"), &[toleration("k", "", "v", "")], true),
        ("other value", taint("k", Some("v"), "NoSchedule"), &[toleration("k", "Equal", "w", "")], false),
        ("exists", taint("k", Some("v"), "NoSchedule"), &[toleration("k", "Exists", "", "NoSchedule")], true),
        ("other effect", taint("k", Some("v"), "NoExecute"), &[toleration("k", "Exists", "", "NoSchedule")], false),
        ("everything", taint("k", Some("v"), "NoExecute"), &[toleration("", "Exists", "", "")], true),
        ("empty key needs Exists", taint("k", None, "NoExecute"), &[toleration("", "", "", "")], false),
        ("out of service", taint(OUT_OF_SERVICE_TAINT, None, "NoExecute"), &[toleration("", "Exists", "", "")], false),
    ];
    for (case, taint, tolerations, fits) in cases {
        let node = node("n", |facts| facts.taints.push(taint.clone()));
        let constraints = Constraints { tolerations, ..small() };
        assert_eq!(reason(&constraints, node).is_none(), *fits, "{case}");
    }
    let tainted = node("n", |facts| facts.taints.push(taint("k", Some("v"), "NoSchedule")));
    assert_eq!(reason(&small(), tainted), Some(Reason::Taint { taint: "k=v".to_owned() }));
}

#[test]
fn node_selector_and_required_affinity() {
    let selector = |value: &str| BTreeMap::from([("zone".to_owned(), value.to_owned())]);
    for (value, fits) in [("x", true), ("y", false)] {
        let selector = selector(value);
        let constraints = Constraints { selector: Some(&selector), ..small() };
        assert_eq!(reason(&constraints, node("n", |_| {})).is_none(), fits);
    }
    let named = |name: &str| NodeSelectorTerm {
        match_expressions: None,
        match_fields: Some(vec![requirement("metadata.name", "In", &[name])]),
    };
    let cases = [
        ("In", vec![expressions(&[requirement("zone", "In", &["w", "x"])])], true),
        ("In, missing", vec![expressions(&[requirement("none", "In", &["x"])])], false),
        ("NotIn", vec![expressions(&[requirement("zone", "NotIn", &["x"])])], false),
        ("NotIn, missing", vec![expressions(&[requirement("none", "NotIn", &["x"])])], true),
        ("Exists", vec![expressions(&[requirement("zone", "Exists", &[])])], true),
        ("DoesNotExist", vec![expressions(&[requirement("zone", "DoesNotExist", &[])])], false),
        ("Gt", vec![expressions(&[requirement("cores", "Gt", &["7"])])], true),
        ("Gt, equal", vec![expressions(&[requirement("cores", "Gt", &["8"])])], false),
        ("Lt", vec![expressions(&[requirement("cores", "Lt", &["9"])])], true),
        ("Gt, no number", vec![expressions(&[requirement("zone", "Gt", &["1"])])], false),
        ("unknown operator", vec![expressions(&[requirement("zone", "Like", &["x"])])], false),
        (
            "all of a term",
            vec![expressions(&[requirement("zone", "Exists", &[]), requirement("no", "Exists", &[])])],
            false,
        ),
        ("any term", vec![expressions(&[requirement("no", "Exists", &[])]), named("n")], true),
        ("field", vec![named("other")], false),
        ("an empty term", vec![NodeSelectorTerm::default()], false),
        ("no term", vec![], false),
    ];
    for (case, terms, fits) in cases {
        let affinity = required(terms);
        let constraints = Constraints { affinity: Some(&affinity), ..small() };
        assert_eq!(reason(&constraints, node("n", |_| {})).is_none(), fits, "{case}");
    }
}

#[test]
fn room_is_what_pods_and_guests_leave() {
    let room = |pods_kib, guests_kib, reserved_kib| {
        let mut node = node("n", |facts| facts.reserved_kib = reserved_kib);
        node.pods.memory_kib = pods_kib;
        node.guests.memory_kib = guests_kib;
        reason(&small(), node)
    };
    assert_eq!(room(500_000, 300_000, 0), None);
    assert_eq!(room(500_000, 400_000, 0), Some(Reason::Memory { missing_kib: 51_424 }));
    assert_eq!(room(1 << 20, 100_000, 300_000), None, "reserved for guests, whatever pods ask");
    assert_eq!(room(1 << 20, 100_001, 300_000), Some(Reason::Memory { missing_kib: 1 }));
    let mut busy = node("n", |_| {});
    (busy.pods.cpu_millis, busy.guests.cpu_millis) = (2000, 1950);
    assert_eq!(reason(&small(), busy), Some(Reason::Cpu { missing_millis: 50 }));
}

#[test]
fn of_those_that_fit_the_preferred_then_the_emptiest_then_the_first() {
    let with = |name: &str, guests_kib, zone: &str| {
        let mut node = node(name, |facts| drop(facts.labels.insert("zone".to_owned(), zone.to_owned())));
        node.guests.memory_kib = guests_kib;
        node
    };
    let nodes = [with("c", 0, "x"), with("b", 0, "x"), with("a", 10, "x"), with("d", 500_000, "y")];
    assert_eq!(choose(NOW, &small(), &nodes), Ok("b".to_owned()));
    let prefer = PreferredSchedulingTerm { weight: 1, preference: expressions(&[requirement("zone", "In", &["y"])]) };
    let affinity = NodeAffinity {
        preferred_during_scheduling_ignored_during_execution: Some(vec![prefer]),
        ..NodeAffinity::default()
    };
    let constraints = Constraints { affinity: Some(&affinity), ..small() };
    assert_eq!(choose(NOW, &constraints, &nodes), Ok("d".to_owned()));
    let soft = |name: &str| node(name, |facts| facts.taints.push(taint("k", None, "PreferNoSchedule")));
    assert_eq!(choose(NOW, &small(), &[soft("a"), with("b", 500_000, "x")]), Ok("b".to_owned()));
}

#[test]
fn a_pinned_guest_goes_nowhere_else() {
    let nodes = [node("a", |_| {}), node("b", |_| {})];
    assert_eq!(choose(NOW, &Constraints { pinned: Some("b"), ..small() }, &nodes), Ok("b".to_owned()));
    let gone = choose(NOW, &Constraints { pinned: Some("c"), ..small() }, &nodes).unwrap_err();
    assert_eq!(gone.to_string(), "0/2 nodes are available: 2 node(s) must wait until node c has let the old guest go.");
}

#[test]
fn a_misfit_counts_reasons_as_kube_scheduler_does() {
    let selector = BTreeMap::from([("zone".to_owned(), "x".to_owned())]);
    let elsewhere = |name: &str| node(name, |facts| facts.labels.retain(|key, _| key != "zone"));
    let full = node("full", |facts| facts.allocatable.memory_kib = 1);
    let constraints = Constraints { selector: Some(&selector), ..small() };
    let misfit = choose(NOW, &constraints, &[elsewhere("a"), full, elsewhere("b")]).unwrap_err();
    assert_eq!(
        misfit.to_string(),
        "0/3 nodes are available: 1 Insufficient memory, 2 node(s) didn't match node selector or affinity."
    );
    assert_eq!(misfit.lines()[2], "node full: Insufficient memory (199999 KiB missing)");
    let nobody = choose(NOW, &small(), &[]).unwrap_err();
    assert!(nobody.to_string().contains("no node is registered"));
}

#[test]
fn a_guest_takes_its_memory_and_the_overhead() {
    let mut spec = VirtualMachineSpec::default();
    let default_kib = 8192;
    assert_eq!(guest_requests(&spec).memory_kib, default_kib + GUEST_OVERHEAD_KIB);
    let requests = spec.domain.resources.get_or_insert_default().requests.get_or_insert_default();
    requests.insert("memory".to_owned(), api::Quantity::from("1Gi"));
    requests.insert("cpu".to_owned(), api::Quantity::from("1500m"));
    assert_eq!(guest_requests(&spec), Requests { memory_kib: (1 << 20) + GUEST_OVERHEAD_KIB, cpu_millis: 1500 });
}

#[test]
fn a_guest_goes_where_its_volumes_are() {
    let nodes = [node("a", |_| {}), node("b", |facts| drop(facts.labels.insert("zone".to_owned(), "y".to_owned())))];
    let selector =
        |zone: &str| NodeSelector { node_selector_terms: vec![expressions(&[requirement("zone", "In", &[zone])])] };
    let at = |zone: &str| VolumeConstraints { affinities: vec![("pv".to_owned(), selector(zone))], pinned: Vec::new() };
    assert_eq!(choose(NOW, &Constraints { volumes: at("y"), ..small() }, &nodes), Ok("b".to_owned()));
    let nowhere = choose(NOW, &Constraints { volumes: at("z"), ..small() }, &nodes).unwrap_err();
    assert_eq!(nowhere.to_string(), "0/2 nodes are available: 2 node(s) didn't have PersistentVolume pv.");
    let beside = VolumeConstraints { affinities: Vec::new(), pinned: vec![("b".to_owned(), "ns/c".to_owned())] };
    assert_eq!(choose(NOW, &Constraints { volumes: beside.clone(), ..small() }, &nodes), Ok("b".to_owned()));
    let both = VolumeConstraints { affinities: at("x").affinities, ..beside };
    let torn = choose(NOW, &Constraints { volumes: both, ..small() }, &nodes).unwrap_err();
    assert_eq!(
        torn.to_string(),
        "0/2 nodes are available: 1 node(s) cannot have ReadWriteOnce claim ns/c, which is in use on node b, 1 node(s) didn't have PersistentVolume pv."
    );
}
