//! Who may do what. The contract, whichever API server holds it.

use crate::attempt::Is::{self, Allowed, Invalid, Refused, Unauthorized};

/// One attempt: verb, object, for a patch what is merged into it. And what becomes of it: by the node's agent, by another's, by one of no node.
pub(crate) type Row = (&'static str, [Is; 3]);

/// Whoever is asked, reads are for all agents; writes are for the node's alone.
const ALL: [Is; 3] = [Allowed; 3];
const OWN: [Is; 3] = [Allowed, Refused, Refused];
const NO_ONE: [Is; 3] = [Refused; 3];
const NOT_EVEN_AN_ADMIN: [Is; 3] = [Invalid; 3];
const NOT_GRANTED: [Is; 3] = [Unauthorized; 3];

/// What a joined agent, which has no kubelet beside it, may do beyond the table. Node `here` is out of service: it is not its agent's to remove.
pub(crate) const JOINED: &[Row] = &[
    (r#"patch nodes/here/status {"status":{"conditions":null}}"#, OWN),
    (r#"patch nodes/here {"spec":{"unschedulable":true}}"#, OWN),
    ("delete nodes/here", NO_ONE),
    ("create nodes", NO_ONE),
    ("delete leases/here", OWN),
    (r#"patch node-leases/here {"spec":{"holderIdentity":"here"}}"#, OWN),
    // It renews its certificate. Whose it gets, the controller sees to.
    ("get signing-requests", ALL),
];

pub(crate) const TABLE: &[Row] = &[
    // VirtualMachines: `mine` is bound to the node, `new` to none, `leaving` is bound to it and being deleted.
    ("get virtualmachines/mine", ALL),
    ("get virtualmachines", ALL),
    (r#"update virtualmachines/mine/status {"status":{"phase":"Running"}}"#, OWN),
    (r#"update virtualmachines/mine/status {"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#, OWN),
    (r#"update virtualmachines/mine/status {"status":{"nodeName":"there"}}"#, NOT_EVEN_AN_ADMIN),
    (r#"update virtualmachines/mine/status {"status":{"nodeName":null}}"#, NOT_EVEN_AN_ADMIN),
    (r#"update virtualmachines/mine/status {"status":null}"#, NOT_EVEN_AN_ADMIN),
    (r#"update virtualmachines/new/status {"status":{"nodeName":"here"}}"#, NO_ONE),
    (r#"update virtualmachines/new/status {"status":{"phase":"Failed"}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"kubevirt.io/nodeName":"here"}}}"#, OWN),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"kubevirt.io/nodeName":"there"}}}"#, NO_ONE),
    (r#"patch virtualmachines/new {"metadata":{"labels":{"kubevirt.io/nodeName":"here"}}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"app":"other"}}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"labels":{"app":null}}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"annotations":{"note":"other"}}}"#, NO_ONE),
    (
        r#"patch virtualmachines/mine {"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ConfigMap","name":"x","uid":"x"}]}}"#,
        NO_ONE,
    ),
    (r#"patch virtualmachines/mine {"spec":{"terminationGracePeriodSeconds":0}}"#, NOT_EVEN_AN_ADMIN),
    (r#"patch virtualmachines/new {"spec":{"terminationGracePeriodSeconds":0}}"#, NO_ONE),
    (r#"patch virtualmachines/mine {"metadata":{"finalizers":null}}"#, NO_ONE),
    (r#"patch virtualmachines/leaving {"metadata":{"finalizers":["example.com/hold"]}}"#, OWN),
    (r#"patch virtualmachines/leaving {"metadata":{"finalizers":["foregroundDeleteVirtualMachine"]}}"#, NO_ONE),
    (r#"patch virtualmachines/leaving {"metadata":{"finalizers":null}}"#, NO_ONE),
    ("delete virtualmachines/mine", NOT_GRANTED),
    ("delete virtualmachines", NOT_GRANTED),
    ("create virtualmachines", NOT_GRANTED),
    // OfflineVirtualMachines: `placed` is placed on the node, `free` on none, `done` is released.
    ("get offlinevirtualmachines/placed", ALL),
    (r#"patch offlinevirtualmachines/placed/status {"status":{"placement":{"released":true}}}"#, OWN),
    (r#"patch offlinevirtualmachines/placed/status {"status":{"placement":{"released":true},"ready":true}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/placed/status {"status":{"placement":{"nodeName":"there"}}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/placed/status {"status":{"placement":null}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/placed/status {"status":{"observedGeneration":null}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/done/status {"status":{"placement":{"released":false}}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/done/status {"status":{"placement":{"released":null}}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/free/status {"status":{"ready":true}}"#, NO_ONE),
    (r#"patch offlinevirtualmachines/placed {"spec":{"running":false}}"#, NOT_GRANTED),
    (r#"patch offlinevirtualmachines/placed {"metadata":{"finalizers":null}}"#, NOT_GRANTED),
    ("delete offlinevirtualmachines/placed", NOT_GRANTED),
    // Nodes. Its taints, by which it is fenced, are not its own to take off.
    ("get nodes/here", ALL),
    ("get nodes", NOT_GRANTED),
    (r#"patch nodes/here {"metadata":{"labels":{"kubevirt.io/schedulable":"true"}}}"#, OWN),
    (r#"patch nodes/here {"metadata":{"annotations":{"kubevirt.io/heartbeat":"2026-01-01T00:00:00Z"}}}"#, OWN),
    (r#"patch nodes/here {"metadata":{"labels":{"zone":"other"}}}"#, NO_ONE),
    (r#"patch nodes/here {"metadata":{"labels":{"zone":null}}}"#, NO_ONE),
    (r#"patch nodes/here {"metadata":{"annotations":{"note":"other"}}}"#, NO_ONE),
    (r#"patch nodes/here {"metadata":{"finalizers":["example.com/hold"]}}"#, NO_ONE),
    (r#"patch nodes/here {"spec":{"taints":null}}"#, NO_ONE),
    (r#"patch nodes/here {"spec":{"unschedulable":true}}"#, NO_ONE),
    (r#"patch nodes/here/status {"status":{"conditions":null}}"#, NOT_GRANTED),
    ("delete nodes/here", NOT_GRANTED),
    ("create nodes", NOT_GRANTED),
    // Leases: the node's own. `ovm-controller` is the controllers' election.
    ("create leases", OWN),
    (r#"patch leases/here {"spec":{"holderIdentity":"here"}}"#, OWN),
    (r#"patch leases/ovm-controller {"spec":{"holderIdentity":"here"}}"#, NO_ONE),
    ("delete leases/here", NOT_GRANTED),
    (r#"patch node-leases/here {"spec":{"holderIdentity":"here"}}"#, NOT_GRANTED),
    // Events: in its own name.
    ("create events", OWN),
    ("create events without source", NO_ONE),
    (r#"patch events/told {"count":2}"#, OWN),
    (r#"patch events/told {"source":{"host":"there"}}"#, NO_ONE),
    ("delete events/told", NOT_GRANTED),
    // Nothing else, and no secrets at all. Policies are no objects on the embedded server, and pods none that is made there: asking is refused all the same.
    ("get secrets/user-data", NOT_GRANTED),
    ("get secrets", NOT_GRANTED),
    ("get system-secrets/ovm-controller-tls", NOT_GRANTED),
    ("get configmaps/ovm-controller-ca", ALL),
    ("get configmaps", NOT_GRANTED),
    (r#"patch configmaps/ovm-controller-ca {"data":{"ca.crt":"other"}}"#, NOT_GRANTED),
    ("get namespaces/kube-system", ALL),
    ("get namespaces/default", NOT_GRANTED),
    ("get signing-requests", NOT_GRANTED),
    (
        r#"patch signing-requests/x/approval {"status":{"conditions":[{"type":"Approved","status":"True"}]}}"#,
        NOT_GRANTED,
    ),
    ("get pods", NOT_GRANTED),
    ("create pods", NOT_GRANTED),
    ("delete policies/ovm-agent-nodes", NOT_GRANTED),
    ("delete crds/virtualmachines.kubevirt.io", NOT_GRANTED),
];
