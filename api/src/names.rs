//! The names that are part of the wire contract: groups, finalizers, labels, annotations, event reasons.

/// API group of both kinds.
pub const GROUP: &str = "kubevirt.io";
/// API version of both kinds.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of both kinds.
pub const API_VERSION: &str = "kubevirt.io/v1alpha1";
/// API group of the streaming subresources (console, vnc).
pub const SUBRESOURCE_GROUP: &str = "subresources.kubevirt.io";

/// Longest value of a label, and name part of its key, in bytes: Kubernetes' rule.
pub const LABEL_LIMIT: usize = 63;

/// Finalizer on every VirtualMachine: removed by the node's agent once the domain is gone, by the controller if it was never bound.
pub const VM_FINALIZER: &str = "foregroundDeleteVirtualMachine";
/// Finalizer on every OfflineVirtualMachine that has ever had a VirtualMachine: removed by the controller.
pub const OVM_FINALIZER: &str = "offlinevirtualmachine.kubevirt.io/cascade";
/// The garbage collector's finalizer while it orphans the dependents of an object.
pub const ORPHAN_FINALIZER: &str = "orphan";

/// Label on a bound VirtualMachine: its node's name. `status.nodeName` is authoritative.
pub const NODE_NAME_LABEL: &str = "kubevirt.io/nodeName";
/// Label on a Node: `true` while its agent accepts new guests.
pub const SCHEDULABLE_LABEL: &str = "kubevirt.io/schedulable";
/// Annotation on a Node: when its agent last said that it lives (RFC 3339).
pub const HEARTBEAT_ANNOTATION: &str = "kubevirt.io/heartbeat";
/// Taint on a Node without a kubelet, so that no pod lands there. Placement ignores it.
pub const HYPERVISOR_TAINT: &str = "kubevirt.io/hypervisor";
/// Taint by which an administrator says that a node is really off (F1).
pub const OUT_OF_SERVICE_TAINT: &str = "node.kubernetes.io/out-of-service";
/// Annotation on a Node: share of memory and CPU kept for guests (a quantity of memory).
pub const RESERVED_FOR_GUESTS_ANNOTATION: &str = "kubevirt.io/reserved-memory";
/// Namespace that holds our Leases, one a node, named after it.
pub const SYSTEM_NAMESPACE: &str = "kubevirt-system";
/// The Lease there that is no node's: who holds it is the controller that acts. No Node with an agent may have this name.
pub const LEADER_LEASE: &str = "ovm-controller";
/// The controller's own name: of its Service, its ValidatingWebhookConfiguration and, as common name, its client certificate.
pub const CONTROLLER_NAME: &str = "ovm-controller";
/// Secret in our namespace with the controller's keys and certificates. Only the controller reads it.
pub const TLS_SECRET: &str = "ovm-controller-tls";
/// ConfigMap in our namespace with the authorities that sign the controller's certificates, under [`CA_KEY`]. The controller writes it.
pub const CA_CONFIG_MAP: &str = "ovm-controller-ca";
/// Key of the authorities' certificates (PEM, one or more) in [`CA_CONFIG_MAP`] and [`TLS_SECRET`].
pub const CA_KEY: &str = "ca.crt";
/// Annotation on a node's Lease of ours: `IP:PORT` at which its agent serves consoles. Its agent writes it.
pub const AGENT_ADDRESS_ANNOTATION: &str = "kubevirt.io/agent-address";
/// Annotation on a node's Lease of ours: the certificate (PEM) that its agent shows there. Its agent writes it.
pub const AGENT_CERTIFICATE_ANNOTATION: &str = "kubevirt.io/agent-certificate";
/// The name in every agent's certificate. Which agent it is, is told by the certificate itself.
pub const AGENT_TLS_NAME: &str = "ovm-agent";
/// What a token of a pod says about its node, in the user's extra attributes.
pub const NODE_NAME_CLAIM: &str = "authentication.kubernetes.io/node-name";

/// Label on the ControllerRevisions that hold a guest's ABI: the name of its OfflineVirtualMachine ([`crate::abi::record_label`]).
pub const ABI_OF_LABEL: &str = "kubevirt.io/abi-of";
/// Annotation on an OfflineVirtualMachine: its ABI records up to this number do not count, and are deleted. Written by `virtctl abi reset`.
pub const ABI_RESET_ANNOTATION: &str = "kubevirt.io/abi-reset";
/// Annotation on a Node: the versioned machine types that its libvirt offers, separated by commas. Written by its agent.
pub const MACHINE_TYPES_ANNOTATION: &str = "kubevirt.io/machine-types";

/// Annotation on a VirtualMachine that outlives its OfflineVirtualMachine: that one's UID. Written before the OfflineVirtualMachine is let go,
/// so that an adoption decided before finds a changed VirtualMachine and fails (D3).
pub const ORPHANED_BY_ANNOTATION: &str = "kubevirt.io/orphaned-by";

/// Annotation on a VirtualMachine that an OfflineVirtualMachine's controller made: which template it was made from
/// ([`VirtualMachineTemplate::fingerprint`](crate::v1alpha1::VirtualMachineTemplate::fingerprint)). It is placed only while that is the present one (S2).
pub const TEMPLATE_ANNOTATION: &str = "kubevirt.io/made-from-template";

/// XML namespace of our domain metadata, and the `kubevirt.io` namespace of domain XML since KubeVirt's first release.
pub const DOMAIN_METADATA_NAMESPACE: &str = "http://kubevirt.io";

/// `source.component` of the controller's events.
pub const CONTROLLER_COMPONENT: &str = "offlinevirtualmachine-controller";
/// `source.component` of the agent's events (KubeVirt's name for it).
pub const AGENT_COMPONENT: &str = "virt-handler";

/// Label on every object of an installation.
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
/// Its value.
pub const PART_OF: &str = "ovm";

/// Label on a Node that its agent made, and keeps Ready: the agents' DaemonSet stays away from it.
pub const REGISTERED_BY_LABEL: &str = "kubevirt.io/registered-by";
/// Its value.
pub const REGISTERED_BY_AGENT: &str = "ovm-agent";

/// User name of a joined agent, before its node's name.
pub const NODE_USER_PREFIX: &str = "kubevirt.io:node:";
/// Group of joined agents.
pub const NODES_GROUP: &str = "kubevirt.io:nodes";
/// Group of whoever shows a bootstrap token for a host that joins. Kubernetes allows no dot in such a group.
pub const JOINERS_GROUP: &str = "system:bootstrappers:kubevirt-io:node";
/// Who signs the certificates of joined agents, once they are approved.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Annotation on a bootstrap token's Secret: the joined node whose place the host that joins with it takes, even while that node's agent lives.
pub const REPLACES_NODE_ANNOTATION: &str = "kubevirt.io/replaces-node";
/// Taint by which a joined agent that leaves asks for its guests to be stopped.
pub const LEAVING_TAINT: &str = "kubevirt.io/leaving";
