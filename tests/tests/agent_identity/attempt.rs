//! An agent that tries something, past kubectl, which reads before it writes. Nothing is stored: authorization and admission are the same in a dry run.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tests::programs::output;

use crate::SYSTEM;
use crate::objects::new_object;

/// A write that finds its object changed is made anew so often.
const MOST_CONFLICTS: usize = 5;

/// What becomes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Is {
    Allowed,
    /// The role does not have it.
    Unauthorized,
    /// The role has it, a policy refuses it.
    Refused,
    /// The definition's own rules refuse it, whoever asks: what is bound stays as it is.
    Invalid,
}
/// An agent, as the API server sees it.
pub(crate) struct Agent {
    /// URL of the API server.
    pub(crate) server: String,
    /// Its certificate authority.
    pub(crate) authority: PathBuf,
    /// curl's arguments.
    pub(crate) credentials: Vec<String>,
}

impl Agent {
    /// Tries one row. What became of it, where that is one of ours; and what was said.
    pub(crate) fn attempt(&self, attempt: &str) -> Result<(Option<Is>, String)> {
        let (verb, rest) = attempt.split_once(' ').context("a row begins with a verb")?;
        let (target, body) = match rest.split_once(' ') {
            _ if verb == "create" => (rest.split(' ').next().unwrap_or(rest), new_object(rest).to_string()),
            Some((target, body)) => (target, body.to_owned()),
            None => (rest, String::new()),
        };
        let (kind, name) =
            target.split_once('/').map_or((target, String::new()), |(kind, name)| (kind, format!("/{name}")));
        let path = format!("{}{name}", path(kind)?);
        let (code, said) = match verb {
            "get" => self.call("GET", &path, None)?,
            "create" => self.call("POST", &path, Some(&body))?,
            "delete" => self.call("DELETE", &path, None)?,
            "update" => self.update(&path, &body)?,
            _ => self.call("PATCH", &path, Some(&body))?,
        };
        let is = match code.as_str() {
            "200" | "201" => Some(Is::Allowed),
            // It was let through to the store, where there is one already.
            "409" if verb == "create" => Some(Is::Allowed),
            _ if said.contains("denied request") && said.contains("ValidatingAdmissionPolicy 'ovm-agent-") => {
                Some(Is::Refused)
            }
            "422" => Some(Is::Invalid),
            "403" if said.contains("cannot ") => Some(Is::Unauthorized),
            _ => None,
        };
        Ok((is, format!("{code} {said}")))
    }

    /// The whole object, changed. A controller may write to it meanwhile.
    fn update(&self, path: &str, patch: &str) -> Result<(String, String)> {
        for _ in 0..MOST_CONFLICTS {
            let answer = self.call("PUT", path, Some(&self.read_and_merge(path, patch)?))?;
            if answer.0 != "409" {
                return Ok(answer);
            }
        }
        bail!("{path} was changed {MOST_CONFLICTS} times between read and write");
    }

    /// Status and body of the answer.
    fn call(&self, method: &str, path: &str, body: Option<&str>) -> Result<(String, String)> {
        let media = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--write-out",
            "\n%{http_code}",
            "--request",
            method,
        ]);
        curl.arg("--cacert").arg(&self.authority).args(&self.credentials);
        if let Some(body) = body {
            curl.args(["--header", &format!("Content-Type: {media}"), "--data-binary", body]);
        }
        let dry = if method == "GET" { "" } else { "?dryRun=All" };
        let answer = output(curl.arg(format!("{}{path}{dry}", self.server)))?;
        let (said, code) = answer.rsplit_once('\n').context("curl prints the status last")?;
        Ok((code.to_owned(), said.to_owned()))
    }

    /// The whole object, changed.
    fn read_and_merge(&self, path: &str, patch: &str) -> Result<String> {
        let (_, body) = self.call("GET", path.trim_end_matches("/status"), None)?;
        let mut object = serde_json::from_str(&body).with_context(|| format!("read {body}"))?;
        merge(&mut object, &serde_json::from_str(patch).with_context(|| format!("read {patch}"))?);
        Ok(object.to_string())
    }
}

/// RFC 7396, as far as the table needs it.
fn merge(object: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten() {
        match value {
            Value::Null => drop(object.as_object_mut().and_then(|object| object.remove(key))),
            Value::Object(_) => merge(&mut object[key.as_str()], value),
            _ => object[key.as_str()] = value.clone(),
        }
    }
}

/// The collection of a kind, in the namespace that the table means.
fn path(kind: &str) -> Result<String> {
    Ok(match kind {
        "virtualmachines" | "offlinevirtualmachines" => format!("/apis/kubevirt.io/v1alpha1/namespaces/default/{kind}"),
        "nodes" | "namespaces" => format!("/api/v1/{kind}"),
        "events" | "secrets" => format!("/api/v1/namespaces/default/{kind}"),
        "configmaps" | "pods" => format!("/api/v1/namespaces/{SYSTEM}/{kind}"),
        "system-secrets" => format!("/api/v1/namespaces/{SYSTEM}/secrets"),
        "leases" => format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases"),
        "node-leases" => "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".to_owned(),
        "signing-requests" => "/apis/certificates.k8s.io/v1/certificatesigningrequests".to_owned(),
        "policies" => "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies".to_owned(),
        "crds" => "/apis/apiextensions.k8s.io/v1/customresourcedefinitions".to_owned(),
        other => bail!("the table names {other}, which has no path"),
    })
}
