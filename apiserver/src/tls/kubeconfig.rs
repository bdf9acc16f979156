//! The administrator's kubeconfig.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use base64::Engine;

use super::leaf::Leaf;

/// Name of cluster, user and context in the file.
const NAME: &str = "ovm";

/// Nobody can connect to "all addresses"; this is for this host.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether a file leads to this server with these credentials, whatever `kubectl config` has made of the rest: a namespace, other contexts.
pub(super) fn leads_here(text: &str, address: SocketAddr, authority_pem: &str, admin: &Leaf) -> bool {
    let rendered = render(address, authority_pem, admin);
    let says = |line: &str| text.lines().any(|present| present.trim() == line.trim());
    rendered.lines().filter(|line| line.contains("server: ") || line.contains("-data: ")).all(says)
}

/// The file's text. It holds the administrator's key: whoever reads it may do everything.
pub(super) fn render(address: SocketAddr, authority_pem: &str, admin: &Leaf) -> String {
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    let server = reachable(address);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {NAME}
  cluster:
    server: https://{server}
    certificate-authority-data: {authority}
users:
- name: {NAME}
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: {NAME}
  context:
    cluster: {NAME}
    user: {NAME}
    namespace: default
current-context: {NAME}
",
        authority = encode(authority_pem),
        certificate = encode(&admin.certificate_pem),
        key = encode(&admin.key_pem),
    )
}
