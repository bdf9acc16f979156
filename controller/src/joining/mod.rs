//! Hosts that join, and joined agents that renew: approves or denies their signing requests as `plan::cluster` says, and uses their tokens up.
//!
//! One request at a time, by the one controller that acts: what one decision gives away, the next one sees.

mod request;

use std::collections::BTreeMap;
use std::time::Duration;

use api::chain;
use api::join::BootstrapToken;
use api::names::{CLIENT_SIGNER, REPLACES_NODE_ANNOTATION};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt as _};
use plan::cluster::{
    Denial, NameFacts, SigningClaim, SigningVerdict, TokenFacts, given_away, judge_join, judge_renewal, signing_claim,
};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::context::Context;
use crate::error::api_message;
use crate::observe::{LookError, read_home};
use crate::watch::{Pauses, WATCH_SECONDS};

/// Pause after a call that failed.
const RETRY: Duration = Duration::from_secs(5);
/// Who may use a token, in its Secret.
const EXTRA_GROUPS: &str = "auth-extra-groups";

/// When a token ends, in its Secret.
const EXPIRATION: &str = "expiration";

/// The requests to our signer, and when those that are open are looked at.
#[derive(Default)]
struct Requests {
    known: BTreeMap<String, CertificateSigningRequest>,
    due: BTreeMap<String, Instant>,
    /// Tokens that were used up for requests, by the requests' UIDs, until those are settled: an approval that fails is tried again without its token.
    spent: BTreeMap<String, TokenFacts>,
}

/// A request that could not be settled.
#[derive(Debug, thiserror::Error)]
enum SettleError {
    #[error(transparent)]
    Look(#[from] LookError),
    #[error("{operation}: {message}")]
    Call { operation: &'static str, message: String },
}

/// Settles requests as they come, for ever. An API server without this API, or without the right to it, is waited for.
pub(crate) async fn settle_requests(context: Context) {
    let api = Api::<CertificateSigningRequest>::all(context.client.clone());
    let config = Config::default().timeout(WATCH_SECONDS).fields(&format!("spec.signerName={CLIENT_SIGNER}"));
    let mut events = watcher(api, config).backoff(Pauses::default()).boxed();
    let (mut requests, mut is_broken) = (Requests::default(), false);
    loop {
        let next = requests.next();
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    is_broken = false;
                    requests.take_in(event);
                }
                Some(Err(error)) if !std::mem::replace(&mut is_broken, true) => {
                    tracing::warn!(error = chain(&error), "cannot watch signing requests: no host can join, and no certificate is renewed");
                }
                Some(Err(_)) => {}
                None => return,
            },
            name = next => requests.settle(&context, name).await,
        }
    }
}

impl Requests {
    fn take_in(&mut self, event: Event<CertificateSigningRequest>) {
        match event {
            Event::Init => {
                self.known.clear();
                self.due.clear();
            }
            Event::Apply(request) | Event::InitApply(request) => {
                let name = request.name_any();
                self.known.insert(name.clone(), request);
                self.due.insert(name, Instant::now());
            }
            Event::Delete(request) => {
                self.spent.remove(&request.uid().unwrap_or_default());
                self.known.remove(&request.name_any());
                self.due.remove(&request.name_any());
            }
            Event::InitDone => {}
        }
    }

    /// The next request, once it is due.
    fn next(&self) -> impl Future<Output = String> + use<> {
        let next = self.due.iter().min_by_key(|(_, at)| **at).map(|(name, at)| (name.clone(), *at));
        async move {
            match next {
                Some((name, at)) => {
                    sleep_until(at).await;
                    name
                }
                None => std::future::pending().await,
            }
        }
    }

    async fn settle(&mut self, context: &Context, name: String) {
        self.due.remove(&name);
        let Some(request) = self.known.get(&name).cloned() else { return };
        let again = match self.judge_and_apply(context, &request).await {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(request = name, error = chain(&error), "cannot settle a signing request; trying again");
                Some(RETRY)
            }
        };
        if let Some(pause) = again {
            self.due.insert(name, Instant::now() + pause);
        }
    }

    /// Observe, judge, apply. When to look again.
    async fn judge_and_apply(
        &mut self,
        context: &Context,
        request: &CertificateSigningRequest,
    ) -> Result<Option<Duration>, SettleError> {
        let facts = request::facts(request, Timestamp::now());
        let (node, token_id) = match signing_claim(&facts) {
            SigningClaim::NotOurs => return Ok(None),
            SigningClaim::Refused(denial) => return deny(context, request, &denial).await.map(|()| None),
            SigningClaim::Join { node, token } => (node, Some(token)),
            SigningClaim::Renew { node } => (node, None),
        };
        let uid = request.uid().unwrap_or_default();
        let secret = match &token_id {
            Some(id) if !self.spent.contains_key(&uid) => read_token(context, id).await?,
            _ => None,
        };
        let token = self.spent.get(&uid).cloned().or_else(|| Some(token_facts(secret.as_ref()?, Timestamp::now())));
        let home = read_home(context, &node).await?;
        let name = NameFacts {
            node: home.as_ref(),
            lease: context.index().lease(&node).cloned().unwrap_or_default(),
            monotonic: context.now().monotonic,
            given_away: self.given_away(&node, &facts.requestor),
        };
        let verdict = match &token_id {
            Some(id) => judge_join(&node, id, token.as_ref(), &name),
            None => judge_renewal(&node, &name),
        };
        match verdict {
            SigningVerdict::Wait(pause) => return Ok(Some(pause)),
            SigningVerdict::Deny(denial) => {
                deny(context, request, &denial).await?;
                self.spent.remove(&uid);
            }
            SigningVerdict::Approve => {
                // Used up first: of two that show it, one finds it.
                if let Some(secret) = &secret
                    && !use_up(context, secret).await?
                {
                    return Ok(Some(Duration::ZERO));
                }
                self.spent.extend(token.map(|token| (uid.clone(), token)));
                let approved = approve(context, request, &node, token_id.as_deref()).await?;
                self.spent.remove(&uid);
                // The watch is behind it, and the next request may be for the same name.
                self.known.insert(approved.name_any(), approved);
            }
        }
        Ok(None)
    }

    fn given_away(&self, node: &str, requestor: &str) -> Option<Duration> {
        let now = Timestamp::now();
        given_away(self.known.values().map(|request| request::facts(request, now)), node, requestor)
    }
}

async fn read_token(context: &Context, id: &str) -> Result<Option<Secret>, SettleError> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), BootstrapToken::NAMESPACE);
    let secret = secrets.get_opt(&BootstrapToken::secret_name(id)).await;
    let secret = secret.map_err(|error| failed("read the bootstrap token", &error))?;
    Ok(secret.filter(|secret| secret.type_.as_deref() == Some(BootstrapToken::SECRET_TYPE)))
}

fn token_facts(secret: &Secret, now: Timestamp) -> TokenFacts {
    let text = |key: &str| {
        let bytes = secret.data.as_ref()?.get(key)?;
        Some(String::from_utf8_lossy(&bytes.0).into_owned())
    };
    let groups = text(EXTRA_GROUPS).unwrap_or_default();
    TokenFacts {
        groups: groups.split(',').map(|group| group.trim().to_owned()).collect(),
        is_over: text(EXPIRATION).is_some_and(|end| end.parse::<Timestamp>().map_or(true, |end| end <= now)),
        replaces: secret.annotations().get(REPLACES_NODE_ANNOTATION).cloned(),
    }
}

/// Deletes a token. Whether it was there as it was read.
async fn use_up(context: &Context, secret: &Secret) -> Result<bool, SettleError> {
    let secrets = Api::<Secret>::namespaced(context.client.clone(), BootstrapToken::NAMESPACE);
    let preconditions = Preconditions { uid: secret.uid(), resource_version: secret.resource_version() };
    match secrets.delete(&secret.name_any(), &DeleteParams::default().preconditions(preconditions)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(failed("delete the bootstrap token", &error)),
    }
}

async fn approve(
    context: &Context,
    request: &CertificateSigningRequest,
    node: &str,
    token: Option<&str>,
) -> Result<CertificateSigningRequest, SettleError> {
    let message = match token {
        Some(id) => format!("node {node} joins with bootstrap token {id}, which is deleted with this"),
        None => format!("the agent of node {node} renews its certificate"),
    };
    let reason = if token.is_some() { "NodeJoins" } else { "NodeRenews" };
    let approved = write_condition(context, request, "Approved", reason, &message).await?;
    tracing::info!(request = request.name_any(), node, token, "signing request approved");
    Ok(approved)
}

async fn deny(context: &Context, request: &CertificateSigningRequest, denial: &Denial) -> Result<(), SettleError> {
    write_condition(context, request, "Denied", denial.reason, &denial.message).await?;
    let requestor = request.spec.username.as_deref().unwrap_or_default();
    tracing::warn!(request = request.name_any(), requestor, reason = denial.message, "signing request denied");
    Ok(())
}

async fn write_condition(
    context: &Context,
    request: &CertificateSigningRequest,
    kind: &str,
    reason: &str,
    message: &str,
) -> Result<CertificateSigningRequest, SettleError> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = json!({
        "type": kind, "status": "True", "reason": reason, "message": message, "lastUpdateTime": now, "lastTransitionTime": now,
    });
    let patch = json!({
        "metadata": {"uid": request.uid(), "resourceVersion": request.resource_version()},
        "status": {"conditions": [condition]},
    });
    let api = Api::<CertificateSigningRequest>::all(context.client.clone());
    let written = api.patch_approval(&request.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
    written.map_err(|error| failed("write the approval", &error))
}

fn failed(operation: &'static str, error: &kube::Error) -> SettleError {
    SettleError::Call { operation, message: api_message(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_over_at_its_time_or_if_that_cannot_be_read() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let facts = |expiration: Option<&str>| {
            let mut data = json!({"auth-extra-groups": "YSwgYg=="});
            if let Some(expiration) = expiration {
                data[EXPIRATION] = json!(k8s_openapi::ByteString(expiration.as_bytes().to_vec()));
            }
            token_facts(&serde_json::from_value(json!({ "data": data })).unwrap(), now)
        };
        assert_eq!(facts(None).groups, ["a", "b"]);
        for (expiration, is_over) in [
            (None, false),
            (Some("2026-01-01T00:00:01Z"), false),
            (Some("2026-01-01T00:00:00Z"), true),
            (Some("tomorrow"), true),
        ] {
            assert_eq!(facts(expiration).is_over, is_over, "{expiration:?}");
        }
    }
}
