//! Whether a user may: asked of the API server for every request, by SubjectAccessReview. Nothing is remembered: a right that was taken away
//! is gone at the next request.

use api::names::{SUBRESOURCE_GROUP, VERSION};
use api::subresources::SUBRESOURCES;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus,
};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::console::Caller;
use crate::error::api_message;
use crate::refusal::Refusal;

/// The VM's subresource that a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) subresource: String,
}

impl Target {
    /// The target that a path names; `None` if it names none.
    ///
    /// A path with an escape names none: it would read differently here and where it is routed, and no name needs one.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let prefix = format!("/apis/{SUBRESOURCE_GROUP}/{VERSION}/namespaces/");
        let parts: Vec<_> = path.strip_prefix(&prefix)?.split('/').collect();
        let &[namespace, "virtualmachines", name, subresource] = parts.as_slice() else { return None };
        let is_plain = ![namespace, name].iter().any(|part| part.is_empty() || part.contains('%'));
        (is_plain && SUBRESOURCES.contains(&subresource)).then(|| Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            subresource: subresource.to_owned(),
        })
    }

    fn review(&self, caller: &Caller) -> SubjectAccessReview {
        let attributes = ResourceAttributes {
            verb: Some("get".to_owned()),
            group: Some(SUBRESOURCE_GROUP.to_owned()),
            version: Some(VERSION.to_owned()),
            resource: Some("virtualmachines".to_owned()),
            subresource: Some(self.subresource.clone()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(caller.user.clone()),
            uid: caller.uid.clone(),
            groups: Some(caller.groups.clone()),
            extra: Some(caller.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        SubjectAccessReview { spec, ..SubjectAccessReview::default() }
    }
}

/// Asks whether the caller may get the target.
///
/// # Errors
/// When it may not, or nobody says.
pub(super) async fn authorize(client: &Client, caller: &Caller, target: &Target) -> Result<(), Refusal> {
    let reviews = Api::<SubjectAccessReview>::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &target.review(caller)).await;
    let answer = answer.map_err(|error| {
        tracing::warn!(error = api_message(&error), "cannot ask whether a user may");
        Refusal::unavailable(format!("cannot ask the API server whether {} may: {}", caller.user, api_message(&error)))
    })?;
    verdict(answer.status.unwrap_or_default(), caller, target)
}

fn verdict(status: SubjectAccessReviewStatus, caller: &Caller, target: &Target) -> Result<(), Refusal> {
    if status.allowed && status.denied != Some(true) {
        return Ok(());
    }
    let Target { namespace, name, subresource } = target;
    let because =
        status.reason.filter(|reason| !reason.is_empty()).map(|reason| format!(": {reason}")).unwrap_or_default();
    Err(Refusal::forbidden(format!(
        "virtualmachines.{SUBRESOURCE_GROUP} {name:?} is forbidden: User {:?} cannot get resource \"virtualmachines/{subresource}\" in API group \
         {SUBRESOURCE_GROUP:?} in the namespace {namespace:?}{because}",
        caller.user
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { namespace: "ns".to_owned(), name: "vm".to_owned(), subresource: "vnc".to_owned() }
    }

    #[test]
    fn a_path_names_a_subresource_of_a_vm_or_nothing() {
        assert_eq!(Target::of_path(&api::subresources::path("ns", "vm", "vnc")), Some(target()));
        for path in [
            "/apis/subresources.kubevirt.io/v1alpha1",
            "/apis/subresources.kubevirt.io/v1alpha1/test",
            "/apis/subresources.kubevirt.io/v1alpha1/namespaces/ns/virtualmachines/vm",
            "/apis/subresources.kubevirt.io/v1alpha1/namespaces/ns/virtualmachines/vm/exec",
            "/apis/subresources.kubevirt.io/v1alpha1/namespaces/ns/virtualmachines/vm/vnc/",
            "/apis/subresources.kubevirt.io/v1alpha1/namespaces/ns/virtualmachines//vnc",
            "/apis/subresources.kubevirt.io/v1alpha1/namespaces/ns%2fo/virtualmachines/vm/vnc",
            "/apis/subresources.kubevirt.io/v1alpha1/namespaces/ns/virtualmachines/v%6d/vnc",
            "/apis/subresources.kubevirt.io/v1/namespaces/ns/virtualmachines/vm/vnc",
        ] {
            assert_eq!(Target::of_path(path), None, "{path}");
        }
    }

    #[test]
    fn the_review_is_about_this_user_and_this_subresource() {
        let caller = Caller {
            user: "u".to_owned(),
            uid: Some("i".to_owned()),
            groups: vec!["g".to_owned()],
            extra: [("e".to_owned(), vec!["x".to_owned()])].into(),
        };
        let spec = serde_json::to_value(target().review(&caller)).unwrap()["spec"].clone();
        let wanted = serde_json::json!({
            "user": "u", "uid": "i", "groups": ["g"], "extra": {"e": ["x"]},
            "resourceAttributes": {
                "verb": "get", "group": "subresources.kubevirt.io", "version": "v1alpha1", "resource": "virtualmachines",
                "subresource": "vnc", "namespace": "ns", "name": "vm",
            },
        });
        assert_eq!(spec, wanted);
    }

    #[test]
    fn only_a_clear_yes_lets_in() {
        let caller = Caller { user: "u".to_owned(), ..Caller::default() };
        let with = |allowed, denied| SubjectAccessReviewStatus { allowed, denied, ..Default::default() };
        assert_eq!(verdict(with(true, None), &caller, &target()), Ok(()));
        for status in [with(false, None), with(true, Some(true)), SubjectAccessReviewStatus::default()] {
            assert_eq!(verdict(status, &caller, &target()).unwrap_err().code, http::StatusCode::FORBIDDEN);
        }
    }
}
