//! Roles and policies, on documents as clusters have them.

use serde_json::{Value, json};

use super::*;

fn documents() -> Vec<Value> {
    let subject = json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "nodes"});
    let reference = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "r"});
    vec![
        json!({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [
            {"apiGroups": [""], "resources": ["nodes", "nodes/status"], "verbs": ["get", "patch"]},
            {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["kube-system"], "verbs": ["get"]},
        ]}),
        json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"}, "roleRef": reference("ClusterRole"), "subjects": [subject]}),
        json!({"kind": "Role", "metadata": {"name": "r", "namespace": "here"}, "rules": [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
        ]}),
        json!({"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "here"}, "roleRef": reference("Role"), "subjects": [subject]}),
        json!({"kind": "ServiceAccount", "metadata": {"name": "passed-over"}}),
        json!({"kind": "ValidatingAdmissionPolicy", "metadata": {"name": "own"}, "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["*"], "operations": ["*"], "resources": ["nodes", "nodes/*"]}]},
            "matchConditions": [{"name": "nodes", "expression": "'nodes' in request.userInfo.?groups.orValue([])"}],
            "variables": [
                {"name": "node", "expression": "request.userInfo.username.substring(5)"},
                {"name": "labels", "expression": "object.metadata.?labels.orValue({})"},
                {"name": "taints", "expression": "object.?spec.?taints.orValue([])"},
            ],
            "validations": [
                {"expression": "variables.node == oldObject.metadata.name", "messageExpression": "'not of ' + variables.node"},
                {"expression": "variables.labels.all(key, key == 'good')", "message": "labels"},
                {"expression": "variables.taints.filter(taint, taint.key != 'mine').size() == 0", "message": "taints"},
                {"expression": "request.?subResource.orValue('') in ['', 'status']", "message": "subresource"},
            ],
        }}),
    ]
}

fn user(name: &str, group: &str) -> User {
    User::new(name, [group.to_owned()])
}

#[test]
fn a_role_gives_what_it_names_where_it_is_bound() {
    let rules = AccessRules::from_documents(&documents()).unwrap();
    let wish = |verb: &'static str, group: &'static str, resource: &'static str| Wish {
        verb,
        group,
        resource,
        subresource: None,
        namespace: None,
        name: None,
    };
    let node = user("node:a", "nodes");
    assert!(rules.allows(&node, &wish("get", "", "nodes")));
    assert!(rules.allows(&node, &Wish { subresource: Some("status"), ..wish("patch", "", "nodes") }));
    assert!(!rules.allows(&node, &Wish { subresource: Some("proxy"), ..wish("get", "", "nodes") }));
    assert!(!rules.allows(&node, &wish("delete", "", "nodes")));
    assert!(!rules.allows(&user("node:a", "others"), &wish("get", "", "nodes")));
    assert!(rules.allows(&node, &Wish { name: Some("kube-system"), ..wish("get", "", "namespaces") }));
    assert!(!rules.allows(&node, &Wish { name: Some("default"), ..wish("get", "", "namespaces") }));
    assert!(!rules.allows(&node, &wish("get", "", "namespaces")));
    let lease = wish("create", "coordination.k8s.io", "leases");
    assert!(rules.allows(&node, &Wish { namespace: Some("here"), ..lease }));
    assert!(!rules.allows(&node, &Wish { namespace: Some("there"), ..lease }) && !rules.allows(&node, &lease));
}

#[test]
fn a_policy_refuses_what_it_does_not_allow_and_what_it_cannot_judge() {
    let rules = AccessRules::from_documents(&documents()).unwrap();
    let (node, stranger) = (user("node:a", "nodes"), user("node:a", "others"));
    let plain = json!({"metadata": {"name": "a"}});
    let said = |user: &User, object: &Value, old: &Value, subresource: &str| {
        rules.objection(&Attempt {
            user,
            operation: "UPDATE",
            group: "",
            resource: "nodes",
            subresource,
            namespace: "",
            name: "a",
            object: Some(object),
            old_object: Some(old),
        })
    };
    assert_eq!(said(&node, &plain, &plain, ""), None);
    assert_eq!(said(&node, &plain, &plain, "status"), None);
    let other = json!({"metadata": {"name": "b"}});
    let wanted = "ValidatingAdmissionPolicy 'own' with binding 'own' denied request: not of a";
    assert_eq!(said(&node, &other, &other, "").as_deref(), Some(wanted));
    assert_eq!(said(&stranger, &other, &other, ""), None, "others are not its concern");
    let ends =
        |said: Option<String>, end: &str| assert!(said.as_ref().is_some_and(|said| said.ends_with(end)), "{said:?}");
    ends(said(&node, &json!({"metadata": {"name": "a", "labels": {"good": "", "bad": ""}}}), &plain, ""), "labels");
    ends(said(&node, &json!({"metadata": {"name": "a"}, "spec": {"taints": [{"key": "x"}]}}), &plain, ""), "taints");
    ends(said(&node, &plain, &plain, "proxy"), "subresource");
    let deleted = Attempt { operation: "DELETE", object: None, old_object: Some(&plain), ..attempt(&node) };
    assert!(rules.objection(&deleted).is_some(), "an expression that fails refuses");
    assert_eq!(rules.objection(&Attempt { resource: "leases", ..deleted }), None);
}

fn attempt(user: &User) -> Attempt<'_> {
    Attempt {
        user,
        operation: "CREATE",
        group: "",
        resource: "nodes",
        subresource: "",
        namespace: "",
        name: "a",
        object: None,
        old_object: None,
    }
}

#[test]
fn a_document_that_is_of_no_use_is_named() {
    let mut broken = documents();
    broken[5]["spec"]["validations"][0]["expression"] = json!("variables. == 1");
    assert!(matches!(AccessRules::from_documents(&broken), Err(AccessError::Expression { .. })));
    assert!(matches!(AccessRules::from_documents(&documents()[1..]), Err(AccessError::NoRole { .. })));
}
