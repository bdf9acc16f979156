//! CertificateSigningRequests (`certificates.k8s.io/v1`): who asks is written by the server, and what is approved for signer
//! `kubernetes.io/kube-apiserver-client` is signed by its own authority, in the write that approves it.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>. Requests to other signers are stored, and signed by nobody.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use crate::admission::Cause;
use crate::auth::{MASTERS, User};
use crate::object::{Object, timestamp};

/// Whose requests are signed here.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// How a request begins.
const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE REQUEST-----";
/// Certificates live no longer, as in Kubernetes.
const LONGEST: i64 = 365 * 24 * 3600;
/// Nor may they be asked for to live shorter.
const SHORTEST: i64 = 600;
/// Certificates are dated back, so that clocks that are a little behind take them; those that live shorter than `SHORT` end as if they were not.
const BACKDATE: Duration = Duration::minutes(5);
const SHORT: Duration = Duration::hours(8);
/// What may be asked of our signer.
const USAGES: [&str; 3] = ["client auth", "digital signature", "key encipherment"];

/// Signs clients' certificates.
pub(crate) struct Signer {
    issuer: Arc<Issuer<'static, KeyPair>>,
}

/// Writes who asks into a new request, and takes out what only others write.
pub(crate) fn fill_in(object: &mut Object, user: &User) {
    let root = object.root_mut();
    root.remove("status");
    let spec = root.entry("spec").or_insert_with(|| json!({}));
    spec["username"] = json!(user.name);
    spec["groups"] = json!(user.groups);
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("uid");
        spec.remove("extra");
        if !user.uid.is_empty() {
            spec.insert("uid".to_owned(), json!(user.uid));
        }
        if !user.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(user.extra));
        }
    }
}

/// What is wrong with a request.
pub(crate) fn causes(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &object["spec"];
    match asked_groups(spec) {
        None => causes.push(Cause::invalid(
            "spec.request",
            &json!(""),
            "PEM block type must be CERTIFICATE REQUEST, and hold one",
        )),
        Some(groups) if spec["signerName"] == CLIENT_SIGNER && groups.iter().any(|group| group == MASTERS) => {
            causes.push(Cause::forbidden(
                "spec.request",
                &format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed"),
            ));
        }
        Some(_) => {}
    }
    if spec["usages"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.usages", "usages are required"));
    }
    if spec["expirationSeconds"].as_i64().is_some_and(|seconds| seconds < SHORTEST) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        causes.push(Cause::invalid("spec.expirationSeconds", &spec["expirationSeconds"], detail));
    }
    causes
}

/// The PKCS #10 request (DER), if the text is one block of PEM and nothing else. What is judged, here and by who approves, and what is signed has to be one
/// thing, and readers of PEM differ in what stands around a block.
fn request_der(spec: &Value) -> Option<Vec<u8>> {
    let pem = STANDARD.decode(spec["request"].as_str()?).ok()?;
    if !pem.starts_with(PEM_BEGIN) {
        return None;
    }
    let (rest, block) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let (trailing, _) = X509CertificationRequest::from_der(&block.contents).ok()?;
    (rest.trim_ascii().is_empty() && trailing.is_empty()).then_some(block.contents)
}

/// Organizations of the subject that is asked for; none if that cannot be read.
fn asked_groups(spec: &Value) -> Option<Vec<String>> {
    let der = request_der(spec)?;
    let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
    let organizations = request.certification_request_info.subject.iter_organization();
    organizations.map(|group| group.as_str().ok().map(str::to_owned)).collect()
}

/// The conditions that a write to `approval` leaves. What was settled stays so.
pub(crate) fn with_approval(old: &Object, wanted: &Object) -> Object {
    let mut new = old.clone();
    let is_settled = has(old.value(), "Approved") || has(old.value(), "Denied");
    if let Some(conditions) = wanted.value().pointer("/status/conditions").filter(|_| !is_settled) {
        new.root_mut().entry("status").or_insert_with(|| json!({}))["conditions"] = conditions.clone();
    }
    new
}

fn has(request: &Value, kind: &str) -> bool {
    let conditions = request.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

impl Signer {
    pub(crate) fn new(issuer: Arc<Issuer<'static, KeyPair>>) -> Self {
        Self { issuer }
    }

    /// Signs a request that is approved and not signed yet; says why in it if it cannot be.
    pub(crate) fn sign_if_needed(&self, object: &mut Object) {
        let value = object.value();
        let is_due = has(value, "Approved") && !has(value, "Denied") && !has(value, "Failed");
        let is_signed = value.pointer("/status/certificate").is_some_and(|certificate| !certificate.is_null());
        if !is_due || is_signed || value["spec"]["signerName"] != CLIENT_SIGNER {
            return;
        }
        let signed = self.sign(&value["spec"], OffsetDateTime::now_utc());
        let status = object.root_mut().entry("status").or_insert_with(|| json!({}));
        match signed {
            Ok(pem) => status["certificate"] = json!(STANDARD.encode(pem)),
            Err(message) => {
                let now = timestamp(jiff::Timestamp::now());
                let condition = json!({
                    "type": "Failed", "status": "True", "reason": "SignerValidationFailure", "message": message,
                    "lastUpdateTime": now, "lastTransitionTime": now,
                });
                if let Some(conditions) = status["conditions"].as_array_mut() {
                    conditions.push(condition);
                }
            }
        }
    }

    /// The certificate (PEM), or what is wrong with the request.
    fn sign(&self, spec: &Value, now: OffsetDateTime) -> Result<String, String> {
        let usages: Vec<&str> = spec["usages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !usages.contains(&"client auth") || !usages.iter().all(|usage| USAGES.contains(usage)) {
            return Err(format!("the usages must be of {USAGES:?}, client auth among them"));
        }
        if asked_groups(spec).is_none_or(|groups| groups.iter().any(|group| group == MASTERS)) {
            return Err(format!("the request cannot be read, or asks for group {MASTERS}"));
        }
        let der = request_der(spec).ok_or("the request cannot be read")?;
        // This also checks that whoever asks has the key.
        let request = CertificateSigningRequestParams::from_der(&der.into());
        let mut request = request.map_err(|error| error.to_string())?;
        let life = Duration::seconds(spec["expirationSeconds"].as_i64().unwrap_or(LONGEST).clamp(SHORTEST, LONGEST));
        let params = &mut request.params;
        params.not_before = now - BACKDATE;
        params.not_after = if life < SHORT { now + life } else { now - BACKDATE + life };
        params.is_ca = IsCa::NoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        request.signed_by(&self.issuer).map(|certificate| certificate.pem()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType};
    use x509_parser::prelude::X509Certificate;

    use super::*;

    fn signer() -> Signer {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Signer::new(Arc::new(Issuer::new(params, KeyPair::generate().unwrap())))
    }

    fn request(group: &str, signer: &str) -> Object {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, "somebody");
        let pem = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let spec = json!({
            "request": STANDARD.encode(pem), "signerName": signer, "usages": ["client auth"], "expirationSeconds": 600,
        });
        Object::new(json!({"metadata": {"name": "r"}, "spec": spec})).unwrap()
    }

    fn approved(mut object: Object) -> Object {
        object.root_mut().insert("status".to_owned(), json!({"conditions": [{"type": "Approved", "status": "True"}]}));
        object
    }

    fn certificate(object: &Object) -> Option<Vec<u8>> {
        let text = object.value()["status"]["certificate"].as_str()?;
        Some(x509_parser::pem::parse_x509_pem(&STANDARD.decode(text).unwrap()).unwrap().1.contents)
    }

    #[test]
    fn what_is_approved_is_signed_as_a_client_and_for_as_long_as_was_asked() {
        let mut object = approved(request("g", CLIENT_SIGNER));
        signer().sign_if_needed(&mut object);
        let der = certificate(&object).unwrap();
        let (_, signed) = X509Certificate::from_der(&der).unwrap();
        assert_eq!(signed.subject().iter_common_name().next().unwrap().as_str(), Ok("somebody"));
        assert!(signed.extended_key_usage().unwrap().unwrap().value.client_auth && !signed.is_ca());
        assert_eq!(signed.validity().not_after.timestamp() - signed.validity().not_before.timestamp(), 900);
        let before = object.clone();
        signer().sign_if_needed(&mut object);
        assert!(object == before, "once");
    }

    #[test]
    fn nothing_else_is_signed() {
        let mut waiting = request("g", CLIENT_SIGNER);
        signer().sign_if_needed(&mut waiting);
        assert_eq!(certificate(&waiting), None);
        let mut others = approved(request("g", "example.com/signer"));
        signer().sign_if_needed(&mut others);
        assert_eq!(certificate(&others), None);
        let mut server = approved(request("g", CLIENT_SIGNER));
        server.root_mut()["spec"]["usages"] = json!(["client auth", "server auth"]);
        signer().sign_if_needed(&mut server);
        assert!(certificate(&server).is_none() && has(server.value(), "Failed"));
    }

    /// One reader of PEM sees the first of them, another one the second.
    #[test]
    fn nothing_is_signed_that_stands_beside_what_was_judged() {
        let text = |group: &str| {
            let request = request(group, CLIENT_SIGNER);
            String::from_utf8(STANDARD.decode(request.value()["spec"]["request"].as_str().unwrap()).unwrap()).unwrap()
        };
        let (evil, honest) = (text(MASTERS), text("g"));
        for both in [
            format!("x{}\n{honest}", evil.replace('\n', "")),
            format!("{honest}{evil}"),
            format!("\n{evil}{honest}"),
            format!("x{evil}"),
        ] {
            let mut object = approved(request("g", CLIENT_SIGNER));
            object.root_mut()["spec"]["request"] = json!(STANDARD.encode(&both));
            assert_eq!(causes(object.value()).len(), 1, "{both}");
            signer().sign_if_needed(&mut object);
            assert!(certificate(&object).is_none() && has(object.value(), "Failed"), "{both}");
        }
        let mut masters = approved(request(MASTERS, CLIENT_SIGNER));
        signer().sign_if_needed(&mut masters);
        assert_eq!(certificate(&masters), None);
    }

    #[test]
    fn a_request_is_checked_and_says_who_asks() {
        assert!(causes(request("g", CLIENT_SIGNER).value()).is_empty());
        assert_eq!(causes(request(MASTERS, CLIENT_SIGNER).value())[0].field, "spec.request");
        assert_eq!(causes(&json!({"spec": {"request": "eA==", "expirationSeconds": 599}})).len(), 3);
        let mut object = approved(request("g", CLIENT_SIGNER));
        object.root_mut()["spec"]["username"] = json!("admin");
        fill_in(&mut object, &User::new("me", ["us".to_owned()]));
        assert_eq!(object.value()["spec"]["username"], "me");
        assert_eq!(object.value()["spec"]["groups"], json!(["us", "system:authenticated"]));
        assert!(object.value().get("status").is_none());
    }

    #[test]
    fn what_was_settled_stays_so() {
        let (open, done) = (request("g", CLIENT_SIGNER), approved(request("g", CLIENT_SIGNER)));
        assert!(has(with_approval(&open, &done).value(), "Approved"));
        assert!(has(with_approval(&done, &open).value(), "Approved"));
    }
}
