//! Which hosts get the certificate of a joined agent: one that shows a bootstrap token, under a name that nobody lives under; and one that has the
//! certificate, and renews it.
//!
//! ```text
//! signing_claim(request) ─► NotOurs | Refused | Join | Renew ─► judge(claim, what is known of token and node) ─► Wait | Deny | Approve
//! ```
//! Whoever has such a certificate is that node's agent. So a token is used once (it is deleted *before* the approval, with its UID as precondition:
//! of two requests by one token, one finds it), and a name is not taken over from an agent that lives, unless the token says so.

use std::time::Duration;

use api::join::{BootstrapToken, check_node_name, node_of_user, node_user};
use api::names::{
    CLIENT_SIGNER, JOINERS_GROUP, NODE_USER_PREFIX, NODES_GROUP, REGISTERED_BY_AGENT, REGISTERED_BY_LABEL,
};

use super::{LeaseFact, LeaseVerdict, NodeFacts};

/// How long a name that was given away waits for its agent's Lease before another host may have it.
const SETTLING_IN: Duration = Duration::from_mins(1);
/// Pause before a request that waits is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// RSA keys below this are weak.
const LEAST_RSA_BITS: usize = 2048;

/// A signing request, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SigningRequest {
    /// Name of the object.
    pub name: String,
    /// Who is to sign.
    pub signer: String,
    /// Who asks, as the API server says.
    pub requestor: String,
    /// That user's groups.
    pub groups: Vec<String>,
    /// What the certificate is to be good for.
    pub usages: Vec<String>,
    /// What is asked for; none if it cannot be read.
    pub asked: Option<AskedCertificate>,
    /// How long ago it was approved, if it was.
    pub approved_for: Option<Duration>,
    /// Whether it is over: approved, denied or failed.
    pub is_settled: bool,
}

/// What a certificate request (PKCS #10) asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedCertificate {
    /// Common names of the subject.
    pub common_names: Vec<String>,
    /// Organizations of the subject.
    pub organizations: Vec<String>,
    /// Whether the subject has anything else.
    pub has_more_in_subject: bool,
    /// Whether it asks for extensions, such as alternative names.
    pub has_extensions: bool,
    /// The key.
    pub key: AskedKey,
}

/// Kind of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AskedKey {
    /// On a curve: NIST's, or Ed25519.
    Curve,
    /// RSA, with the bits of its modulus.
    Rsa(usize),
    /// Anything else.
    #[default]
    Other,
}

/// What a signing request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningClaim {
    /// Not for us to judge.
    NotOurs,
    /// A host's that shows one of our tokens or certificates, and no request that we approve.
    Refused(Denial),
    /// A host joins.
    Join {
        /// Under this name.
        node: String,
        /// With the token of this id.
        token: String,
    },
    /// A joined agent renews its certificate.
    Renew {
        /// Of this node.
        node: String,
    },
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// CamelCase, for the condition.
    pub reason: &'static str,
    /// For the person who joins a host.
    pub message: String,
}

/// What is known of a bootstrap token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenFacts {
    /// Groups of whoever shows it, beside Kubernetes' own.
    pub groups: Vec<String>,
    /// The node whose place may be taken with it.
    pub replaces: Option<String>,
    /// Whether its time is over, or cannot be read.
    pub is_over: bool,
}

/// What is known of a name.
#[derive(Clone, Debug, Default)]
pub struct NameFacts<'a> {
    /// The Node of that name.
    pub node: Option<&'a NodeFacts>,
    /// The Lease of its agent.
    pub lease: LeaseFact,
    /// Time on the clock that the Lease is judged by.
    pub monotonic: Duration,
    /// How long ago the name was given to another host ([`given_away`]).
    pub given_away: Option<Duration>,
}

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigningVerdict {
    /// Look again after the pause.
    Wait(Duration),
    /// Refuse it, for ever.
    Deny(Denial),
    /// Delete the token if there is one, then approve.
    Approve,
}

impl Denial {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a request is, by itself.
pub fn signing_claim(request: &SigningRequest) -> SigningClaim {
    if request.is_settled || request.signer != CLIENT_SIGNER {
        return SigningClaim::NotOurs;
    }
    let has = |group: &str| request.groups.iter().any(|have| have == group);
    let token = BootstrapToken::id_of_user(&request.requestor).filter(|_| has(JOINERS_GROUP));
    let renewing = node_of_user(&request.requestor).filter(|_| has(NODES_GROUP));
    if token.is_none() && renewing.is_none() {
        return SigningClaim::NotOurs;
    }
    let node = match asked_node(request) {
        Ok(node) => node,
        Err(denial) => return SigningClaim::Refused(denial),
    };
    match (token, renewing) {
        (Some(token), _) => SigningClaim::Join { node, token: token.to_owned() },
        (None, Some(own)) if own == node => SigningClaim::Renew { node },
        (None, own) => SigningClaim::Refused(Denial::new(
            "OtherNode",
            format!("the agent of node {} may not ask for the certificate of node {node}", own.unwrap_or_default()),
        )),
    }
}

/// Whether the request is for the certificate of a node's agent, and nothing more; then the node.
fn asked_node(request: &SigningRequest) -> Result<String, Denial> {
    let wrong = |what: &str| Err(Denial::new("NotANodeCertificate", format!("{what}; use `ovm-agent join`")));
    let Some(asked) = &request.asked else { return wrong("the certificate request cannot be read") };
    let [name] = asked.common_names.as_slice() else { return wrong("the subject must have one common name") };
    let Some(node) = name.strip_prefix(NODE_USER_PREFIX) else {
        return wrong(&format!("the common name must be {NODE_USER_PREFIX}NAME, not {name:?}"));
    };
    if let Err(error) = check_node_name(node) {
        return wrong(&error.to_string());
    }
    if asked.organizations != [NODES_GROUP] || asked.has_more_in_subject {
        return wrong(&format!("the subject must have organization {NODES_GROUP}, and nothing else"));
    }
    if asked.has_extensions {
        return wrong("the request must ask for no extensions, such as alternative names");
    }
    let is_usable = match asked.key {
        AskedKey::Curve => true,
        AskedKey::Rsa(bits) => bits >= LEAST_RSA_BITS,
        AskedKey::Other => false,
    };
    if !is_usable {
        return wrong(&format!("the key must be on a curve, or RSA of {LEAST_RSA_BITS} bits or more"));
    }
    let may_be = ["client auth", "digital signature", "key encipherment"];
    let has_client = request.usages.iter().any(|usage| usage == "client auth");
    if !has_client || !request.usages.iter().all(|usage| may_be.contains(&usage.as_str())) {
        return wrong("the usages must be client auth and digital signature");
    }
    Ok(node.to_owned())
}

/// How long ago the name of a node was last given to another host than the one that shows itself as `requestor`.
pub fn given_away(requests: impl Iterator<Item = SigningRequest>, node: &str, requestor: &str) -> Option<Duration> {
    let is_join = |request: &SigningRequest| {
        request.requestor != requestor
            && request.groups.iter().any(|group| group == JOINERS_GROUP)
            && request.asked.as_ref().is_some_and(|asked| asked.common_names == [node_user(node)])
    };
    requests.filter(is_join).filter_map(|request| request.approved_for).min()
}

/// Whether a host may join. `token`: as it was just read, or as it was when it was used up for this very request; none if it is gone.
pub fn judge_join(node: &str, token_id: &str, token: Option<&TokenFacts>, name: &NameFacts<'_>) -> SigningVerdict {
    let is_good = |token: &&TokenFacts| !token.is_over && token.groups.iter().any(|group| group == JOINERS_GROUP);
    let Some(token) = token.filter(is_good) else {
        return SigningVerdict::Deny(Denial::new(
            "TokenSpent",
            format!(
                "bootstrap token {token_id} is used up, expired or not for joining; make another with `virtctl token create`"
            ),
        ));
    };
    if let Some(denial) = kubelet_denial(node, name) {
        return SigningVerdict::Deny(denial);
    }
    if token.replaces.as_deref() == Some(node) {
        return SigningVerdict::Approve;
    }
    match (&name.lease.version, name.lease.verdict(name.monotonic)) {
        (Some(_), LeaseVerdict::Live) => SigningVerdict::Deny(Denial::new(
            "NameTaken",
            format!(
                "node {node} has a living agent; choose another name with --node-name, or make a token that may take its place with \
                 `virtctl token create --replace {node}`"
            ),
        )),
        (Some(_), LeaseVerdict::Unproven) => SigningVerdict::Wait(LOOK_AGAIN),
        // F1: nobody can tell whether its guests run, and its successor would report them as gone.
        (Some(_), LeaseVerdict::Expired) if name.node.is_some_and(|node| !node.is_out_of_service()) => {
            SigningVerdict::Deny(Denial::new(
                "NameTaken",
                format!(
                    "node {node} is silent, and may still run guests; when its machine is off, declare it out of service or delete its Node, or make a \
                     token that says so with `virtctl token create --replace {node}`"
                ),
            ))
        }
        _ if name.given_away.is_some_and(|age| age < SETTLING_IN) => SigningVerdict::Wait(LOOK_AGAIN),
        _ => SigningVerdict::Approve,
    }
}

/// Whether a joined agent may renew its certificate.
pub fn judge_renewal(node: &str, name: &NameFacts<'_>) -> SigningVerdict {
    if let Some(denial) = kubelet_denial(node, name) {
        return SigningVerdict::Deny(denial);
    }
    match name.node {
        Some(facts) if facts.is_out_of_service() => SigningVerdict::Deny(Denial::new(
            "OutOfService",
            format!("node {node} is declared out of service; take the taint off, and its agent asks again"),
        )),
        Some(_) => SigningVerdict::Approve,
        // A living agent makes its Node again.
        None => SigningVerdict::Wait(LOOK_AGAIN),
    }
}

/// A Node with a kubelet has its agent from the DaemonSet.
fn kubelet_denial(node: &str, name: &NameFacts<'_>) -> Option<Denial> {
    let is_kubelets =
        |facts: &NodeFacts| facts.labels.get(REGISTERED_BY_LABEL).is_none_or(|by| by != REGISTERED_BY_AGENT);
    name.node.filter(|facts| is_kubelets(facts)).map(|_| {
        Denial::new(
            "NameTaken",
            format!("node {node} was not registered by an agent: it is a node of the cluster; choose another name with --node-name"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> SigningRequest {
        SigningRequest {
            name: "r".to_owned(),
            signer: CLIENT_SIGNER.to_owned(),
            requestor: "system:bootstrap:abcdef".to_owned(),
            groups: vec!["system:bootstrappers".to_owned(), JOINERS_GROUP.to_owned()],
            usages: vec!["digital signature".to_owned(), "client auth".to_owned()],
            asked: Some(AskedCertificate {
                common_names: vec!["kubevirt.io:node:n1".to_owned()],
                organizations: vec![NODES_GROUP.to_owned()],
                key: AskedKey::Curve,
                ..AskedCertificate::default()
            }),
            ..SigningRequest::default()
        }
    }

    fn renewal() -> SigningRequest {
        let (requestor, groups) = ("kubevirt.io:node:n1".to_owned(), vec![NODES_GROUP.to_owned()]);
        SigningRequest { requestor, groups, ..request() }
    }

    fn with(change: impl FnOnce(&mut SigningRequest)) -> SigningClaim {
        let mut request = request();
        change(&mut request);
        signing_claim(&request)
    }

    #[test]
    fn exactly_a_node_s_certificate_is_a_claim() {
        assert_eq!(signing_claim(&request()), SigningClaim::Join { node: "n1".to_owned(), token: "abcdef".to_owned() });
        assert_eq!(signing_claim(&renewal()), SigningClaim::Renew { node: "n1".to_owned() });
        assert_eq!(with(|r| r.asked.as_mut().unwrap().key = AskedKey::Rsa(2048)), signing_claim(&request()));
    }

    #[test]
    fn what_others_ask_for_is_not_ours() {
        type Change = fn(&mut SigningRequest);
        let cases: [(&str, Change); 6] = [
            ("settled", |r| r.is_settled = true),
            ("another signer", |r| r.signer = "kubernetes.io/kubelet-serving".to_owned()),
            ("a token of another kind", |r| r.groups.truncate(1)),
            ("an administrator, for a node", |r| r.requestor = "admin".to_owned()),
            ("a kubelet", |r| r.requestor = "system:node:n1".to_owned()),
            ("a user who is called as a node, of another group", |r| r.requestor = "kubevirt.io:node:n1".to_owned()),
        ];
        for (case, change) in cases {
            assert_eq!(with(change), SigningClaim::NotOurs, "{case}");
        }
    }

    #[test]
    fn anything_else_that_a_token_asks_for_is_refused() {
        type Change = fn(&mut SigningRequest);
        let cases: [(&str, Change); 13] = [
            ("unreadable", |r| r.asked = None),
            ("no name", |r| r.asked.as_mut().unwrap().common_names.clear()),
            ("two names", |r| r.asked.as_mut().unwrap().common_names.push("kubevirt.io:node:n2".to_owned())),
            ("an administrator", |r| r.asked.as_mut().unwrap().common_names = vec!["admin".to_owned()]),
            ("no node", |r| r.asked.as_mut().unwrap().common_names = vec!["kubevirt.io:node:".to_owned()]),
            ("the leader", |r| {
                r.asked.as_mut().unwrap().common_names = vec!["kubevirt.io:node:ovm-controller".to_owned()];
            }),
            ("masters", |r| r.asked.as_mut().unwrap().organizations = vec!["system:masters".to_owned()]),
            ("masters too", |r| r.asked.as_mut().unwrap().organizations.push("system:masters".to_owned())),
            ("no group", |r| r.asked.as_mut().unwrap().organizations.clear()),
            ("more in the subject", |r| r.asked.as_mut().unwrap().has_more_in_subject = true),
            ("extensions", |r| r.asked.as_mut().unwrap().has_extensions = true),
            ("a weak key", |r| r.asked.as_mut().unwrap().key = AskedKey::Rsa(1024)),
            ("a server's", |r| r.usages.push("server auth".to_owned())),
        ];
        for (case, change) in cases {
            assert!(matches!(with(change), SigningClaim::Refused(_)), "{case}");
        }
        assert!(matches!(with(|r| r.usages.truncate(1)), SigningClaim::Refused(_)), "no client");
        assert!(
            matches!(with(|r| r.asked.as_mut().unwrap().key = AskedKey::Other), SigningClaim::Refused(_)),
            "another key"
        );
    }

    #[test]
    fn an_agent_renews_its_own_certificate_only() {
        let mut of_another = renewal();
        of_another.requestor = "kubevirt.io:node:n2".to_owned();
        assert!(matches!(signing_claim(&of_another), SigningClaim::Refused(Denial { reason: "OtherNode", .. })));
    }

    fn token() -> TokenFacts {
        TokenFacts { groups: vec![JOINERS_GROUP.to_owned()], ..TokenFacts::default() }
    }

    fn registered(change: impl FnOnce(&mut NodeFacts)) -> NodeFacts {
        let labels = [(REGISTERED_BY_LABEL.to_owned(), REGISTERED_BY_AGENT.to_owned())].into();
        let mut facts = NodeFacts { name: "n1".to_owned(), labels, ..NodeFacts::default() };
        change(&mut facts);
        facts
    }

    fn lease(since: u64, renewed: bool) -> LeaseFact {
        LeaseFact { version: Some("1".into()), since: Duration::from_secs(since), renewed }
    }

    const NOW: Duration = Duration::from_secs(100);

    fn denied(verdict: SigningVerdict) -> &'static str {
        match verdict {
            SigningVerdict::Deny(denial) => denial.reason,
            other @ (SigningVerdict::Wait(_) | SigningVerdict::Approve) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_token_joins_once_and_only_if_it_is_for_that() {
        let free = NameFacts { monotonic: NOW, ..NameFacts::default() };
        assert_eq!(judge_join("n1", "abcdef", Some(&token()), &free), SigningVerdict::Approve);
        assert_eq!(denied(judge_join("n1", "abcdef", None, &free)), "TokenSpent");
        let kubeadms =
            TokenFacts { groups: vec!["system:bootstrappers:kubeadm:default-node-token".to_owned()], ..token() };
        assert_eq!(denied(judge_join("n1", "abcdef", Some(&kubeadms), &free)), "TokenSpent");
        let over = TokenFacts { is_over: true, ..token() };
        assert_eq!(denied(judge_join("n1", "abcdef", Some(&over), &free)), "TokenSpent");
    }

    #[test]
    fn a_name_is_not_taken_from_one_that_lives() {
        let node = registered(|_| {});
        let judge = |token: &TokenFacts, lease: LeaseFact, given_away: Option<u64>| {
            let given_away = given_away.map(Duration::from_secs);
            judge_join("n1", "abcdef", Some(token), &NameFacts { node: Some(&node), lease, monotonic: NOW, given_away })
        };
        assert_eq!(denied(judge(&token(), lease(90, true), None)), "NameTaken");
        assert_eq!(
            judge(&token(), lease(90, false), None),
            SigningVerdict::Wait(LOOK_AGAIN),
            "not watched long enough"
        );
        assert_eq!(denied(judge(&token(), lease(60, true), None)), "NameTaken", "silent: its guests may run");
        let fenced = registered(|facts| {
            facts.taints.push(k8s_openapi::api::core::v1::Taint {
                key: api::names::OUT_OF_SERVICE_TAINT.to_owned(),
                ..Default::default()
            });
        });
        for node in [Some(&fenced), None] {
            let name = NameFacts { node, lease: lease(60, true), monotonic: NOW, given_away: None };
            assert_eq!(judge_join("n1", "abcdef", Some(&token()), &name), SigningVerdict::Approve, "fenced");
        }
        assert_eq!(
            judge(&token(), LeaseFact::default(), Some(59)),
            SigningVerdict::Wait(LOOK_AGAIN),
            "just given away"
        );
        assert_eq!(judge(&token(), LeaseFact::default(), Some(60)), SigningVerdict::Approve, "and never taken up");
        let replaces = |node: &str| TokenFacts { replaces: Some(node.to_owned()), ..token() };
        assert_eq!(judge(&replaces("n1"), lease(90, true), Some(1)), SigningVerdict::Approve);
        assert_eq!(denied(judge(&replaces("n2"), lease(90, true), None)), "NameTaken");
    }

    #[test]
    fn a_name_is_given_away_when_its_request_is_approved() {
        let of = |requestor: &str, node: &str, approved_for: Option<u64>| SigningRequest {
            requestor: requestor.to_owned(),
            asked: Some(AskedCertificate { common_names: vec![node_user(node)], ..AskedCertificate::default() }),
            approved_for: approved_for.map(Duration::from_secs),
            ..request()
        };
        let given = |requests: Vec<SigningRequest>| given_away(requests.into_iter(), "n1", "system:bootstrap:abcdef");
        assert_eq!(given(vec![of("system:bootstrap:other1", "n1", None)]), None, "asked for only");
        assert_eq!(given(vec![of("system:bootstrap:other1", "n2", Some(1))]), None, "another name");
        assert_eq!(given(vec![of("system:bootstrap:abcdef", "n1", Some(1))]), None, "its own");
        let two = vec![of("system:bootstrap:other1", "n1", Some(9)), of("system:bootstrap:other2", "n1", Some(3))];
        assert_eq!(given(two), Some(Duration::from_secs(3)));
        assert_eq!(given(vec![SigningRequest { groups: Vec::new(), ..of("n", "n1", Some(1)) }]), None, "a renewal");
    }

    #[test]
    fn a_node_with_a_kubelet_is_nobody_s_to_take() {
        let node = registered(|facts| facts.labels.clear());
        let name = NameFacts { node: Some(&node), monotonic: NOW, ..NameFacts::default() };
        let replaces = TokenFacts { replaces: Some("n1".to_owned()), ..token() };
        assert_eq!(denied(judge_join("n1", "abcdef", Some(&replaces), &name)), "NameTaken");
        assert_eq!(denied(judge_renewal("n1", &name)), "NameTaken");
    }

    #[test]
    fn a_renewal_needs_a_node_in_service() {
        let taint = |facts: &mut NodeFacts| {
            facts.taints.push(k8s_openapi::api::core::v1::Taint {
                key: api::names::OUT_OF_SERVICE_TAINT.to_owned(),
                ..Default::default()
            });
        };
        let (node, fenced) = (registered(|_| {}), registered(taint));
        let of = |node| NameFacts { node, monotonic: NOW, lease: lease(90, true), ..NameFacts::default() };
        assert_eq!(judge_renewal("n1", &of(Some(&node))), SigningVerdict::Approve);
        assert_eq!(judge_renewal("n1", &of(None)), SigningVerdict::Wait(LOOK_AGAIN));
        assert_eq!(denied(judge_renewal("n1", &of(Some(&fenced)))), "OutOfService");
    }
}
