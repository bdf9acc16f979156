//! Who is believed, and who is not.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

use super::*;

struct Authority(Issuer<'static, KeyPair>, String);

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority(Issuer::new(params, key), pem)
}

fn certificate(signer: &Authority, name: &str, usage: ExtendedKeyUsagePurpose) -> Vec<CertificateDer<'static>> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    vec![params.signed_by(&KeyPair::generate().unwrap(), &signer.0).unwrap().der().clone()]
}

fn config(signer: &Authority, names: &str) -> BTreeMap<String, String> {
    [
        ("requestheader-client-ca-file", signer.1.as_str()),
        ("requestheader-allowed-names", names),
        ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
        ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
        ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-remote-user", "system:serviceaccount:kubevirt-system:ovm-agent"),
        ("x-remote-uid", "u1"),
        ("x-remote-group", "system:serviceaccounts"),
        ("x-remote-group", "system:authenticated"),
        ("x-remote-extra-authentication.kubernetes.io%2fnode-name", "node-a"),
        ("x-forwarded-for", "192.0.2.1"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    headers
}

#[test]
fn the_api_server_is_believed_about_user_groups_and_extra() {
    let signer = authority("front");
    let proxy = FrontProxy::from_config_map(&config(&signer, r#"["aggregator"]"#)).unwrap();
    let shown = certificate(&signer, "aggregator", ExtendedKeyUsagePurpose::ClientAuth);
    let caller = proxy.authenticate(&shown, &headers(), UnixTime::now()).unwrap();
    assert_eq!(caller.user, "system:serviceaccount:kubevirt-system:ovm-agent");
    assert_eq!(caller.uid.as_deref(), Some("u1"));
    assert_eq!(caller.groups, ["system:serviceaccounts", "system:authenticated"]);
    let extra = [(api::names::NODE_NAME_CLAIM.to_owned(), vec!["node-a".to_owned()])];
    assert_eq!(caller.extra, extra.into());
}

#[test]
fn nobody_else_is_whatever_the_headers_say() {
    let (signer, other) = (authority("front"), authority("front"));
    let proxy = FrontProxy::from_config_map(&config(&signer, r#"["aggregator"]"#)).unwrap();
    let refused =
        |shown: &[CertificateDer<'static>]| proxy.authenticate(shown, &headers(), UnixTime::now()).unwrap_err();
    assert_eq!(refused(&[]), Stranger::NoCertificate);
    for shown in [
        certificate(&other, "aggregator", ExtendedKeyUsagePurpose::ClientAuth),
        certificate(&signer, "aggregator", ExtendedKeyUsagePurpose::ServerAuth),
        certificate(&signer, "admin", ExtendedKeyUsagePurpose::ClientAuth),
    ] {
        assert!(matches!(refused(&shown), Stranger::NotTheApiServer(_)));
    }
    let shown = certificate(&signer, "aggregator", ExtendedKeyUsagePurpose::ClientAuth);
    let nobody = proxy.authenticate(&shown, &HeaderMap::new(), UnixTime::now());
    assert_eq!(nobody.unwrap_err(), Stranger::NoUser);
    let after = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1 << 37));
    assert!(matches!(proxy.authenticate(&shown, &headers(), after), Err(Stranger::NotTheApiServer(_))), "ended");
}

#[test]
fn without_names_any_certificate_of_the_authority_will_do() {
    let signer = authority("front");
    let proxy = FrontProxy::from_config_map(&config(&signer, "[]")).unwrap();
    let shown = certificate(&signer, "whoever", ExtendedKeyUsagePurpose::ClientAuth);
    assert!(proxy.authenticate(&shown, &headers(), UnixTime::now()).is_ok());
}

#[test]
fn what_cannot_be_used_is_said() {
    let signer = authority("front");
    for (key, value, says) in [
        ("requestheader-client-ca-file", "no PEM", "requestheader-client-ca-file of configmap"),
        ("requestheader-username-headers", "[]", "has no requestheader-username-headers"),
        ("requestheader-allowed-names", "aggregator", "requestheader-allowed-names of configmap"),
    ] {
        let mut data = config(&signer, "[]");
        data.insert(key.to_owned(), value.to_owned());
        let error = FrontProxy::from_config_map(&data).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}
