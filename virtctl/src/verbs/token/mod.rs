//! `virtctl token`: bootstrap tokens, Kubernetes' own, for hosts that join as hypervisors.

mod cluster_info;

use std::io::Read as _;
use std::time::Duration;

use api::join::{BootstrapToken, CaHash, check_node_name};
use api::names::{JOINERS_GROUP, REPLACES_NODE_ANNOTATION};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::cli::{TokenCreateArgs, TokenVerb};
use crate::connection::Connection;
use crate::error::Error;

/// Where randomness comes from.
const RANDOM: &str = "/dev/urandom";
/// Enough bytes for a token: one in sixty is passed over.
const RANDOM_BYTES: usize = 256;
/// Lives of tokens.
const LEAST_TTL: Duration = Duration::from_mins(1);
const MOST_TTL: Duration = Duration::from_hours(24 * 366);
/// What a token is for, in its Secret.
const DESCRIPTION: &str = "for a host that joins as a hypervisor: `virtctl token create`";

/// Does what the verb says.
///
/// # Errors
/// The API server refuses, or a flag cannot be used.
pub(crate) async fn run(connection: &Connection, verb: &TokenVerb) -> Result<(), Error> {
    match verb {
        TokenVerb::Create(args) => create(connection, args).await,
        TokenVerb::List => list(connection).await,
        TokenVerb::Delete { id } => delete(connection, id).await,
    }
}

async fn create(connection: &Connection, args: &TokenCreateArgs) -> Result<(), Error> {
    if args.ttl < LEAST_TTL || args.ttl > MOST_TTL {
        return Err(Error::Ttl(args.ttl.as_secs()));
    }
    if let Some(node) = &args.replace {
        check_node_name(node)?;
    }
    let info = cluster_info::find_or_make(connection).await?;
    let token = random_token()?;
    let ends = SignedDuration::try_from(args.ttl).ok().and_then(|ttl| Timestamp::now().checked_add(ttl).ok());
    let secret = secret(&token, ends.ok_or(Error::Ttl(args.ttl.as_secs()))?, args.replace.as_deref());
    let secrets = Api::<Secret>::namespaced(connection.client.clone(), BootstrapToken::NAMESPACE);
    secrets
        .create(&PostParams::default(), &secret)
        .await
        .map_err(|error| failed(connection, "Error creating the token", &error))?;
    remove_expired(&secrets, Timestamp::now())
        .await
        .map_err(|error| failed(connection, "Error deleting expired tokens", &error))?;
    if info.is_loopback() {
        eprintln!(
            "note: {} is an address of this host alone; give --server one that the joining host reaches",
            info.server
        );
    }
    println!("{}", join_command(&info.server, &token, &info.hashes));
    Ok(())
}

/// Deletes tokens for hosts that join whose time is over. A cluster has a controller for that, which is off by default, and `ovm-standalone` has none.
async fn remove_expired(secrets: &Api<Secret>, now: Timestamp) -> Result<(), kube::Error> {
    let found = secrets.list(&ListParams::default()).await?;
    for secret in found.items.iter().filter(|secret| is_ours(secret) && has_expired(secret, now)) {
        match secrets.delete(&secret.name_any(), &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            deleted => drop(deleted?),
        }
    }
    Ok(())
}

fn has_expired(secret: &Secret, now: Timestamp) -> bool {
    field(secret, "expiration").and_then(|end| end.parse::<Timestamp>().ok()).is_some_and(|end| end <= now)
}

async fn list(connection: &Connection) -> Result<(), Error> {
    let secrets = Api::<Secret>::namespaced(connection.client.clone(), BootstrapToken::NAMESPACE);
    // kube-apiserver can select by type; ours takes no such selector, and its Secrets are few.
    let found = secrets.list(&ListParams::default()).await;
    let found = found.map_err(|error| failed(connection, "Error listing tokens", &error))?;
    println!("{:<8} {:<21} REPLACES", "ID", "EXPIRES");
    for secret in found.items.iter().filter(|secret| is_ours(secret)) {
        let name = secret.name_any();
        let id = BootstrapToken::id_of_secret(&name).unwrap_or_default();
        let expires = match field(secret, "expiration") {
            _ if has_expired(secret, Timestamp::now()) => "expired".to_owned(),
            expires => expires.unwrap_or_else(|| "never".to_owned()),
        };
        let replaces = secret.annotations().get(REPLACES_NODE_ANNOTATION).map_or("-", String::as_str);
        println!("{id:<8} {expires:<21} {replaces}");
    }
    Ok(())
}

async fn delete(connection: &Connection, given: &str) -> Result<(), Error> {
    let id = given.split('.').next().unwrap_or_default();
    let name = BootstrapToken::secret_name(id);
    if BootstrapToken::id_of_secret(&name).is_none() {
        return Err(Error::TokenId(given.to_owned()));
    }
    let secrets = Api::<Secret>::namespaced(connection.client.clone(), BootstrapToken::NAMESPACE);
    let deleted = secrets.delete(&name, &DeleteParams::default()).await;
    deleted.map(drop).map_err(|error| failed(connection, "Error deleting the token", &error))
}

fn failed(connection: &Connection, operation: &'static str, error: &kube::Error) -> Error {
    Error::Token { operation, reason: connection.explain(error) }
}

fn random_token() -> Result<BootstrapToken, Error> {
    let failed = |source| Error::Random { path: RANDOM, source };
    let mut bytes = [0; RANDOM_BYTES];
    std::fs::File::open(RANDOM).and_then(|mut file| file.read_exact(&mut bytes)).map_err(failed)?;
    BootstrapToken::from_random(&bytes).ok_or_else(|| failed(std::io::ErrorKind::UnexpectedEof.into()))
}

/// The Secret that a token is: <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/#bootstrap-token-secret-format>.
fn secret(token: &BootstrapToken, ends: Timestamp, replaces: Option<&str>) -> Secret {
    let text = |text: &str| Some(text.to_owned());
    let mut secret = Secret { type_: text(BootstrapToken::SECRET_TYPE), ..Secret::default() };
    secret.metadata.name = Some(BootstrapToken::secret_name(token.id()));
    secret.metadata.annotations = replaces.map(|node| [(REPLACES_NODE_ANNOTATION.to_owned(), node.to_owned())].into());
    let data = json!({
        "token-id": token.id(), "token-secret": token.secret(), "description": DESCRIPTION,
        "expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "usage-bootstrap-authentication": "true", "auth-extra-groups": JOINERS_GROUP,
    });
    secret.string_data = serde_json::from_value(data).ok();
    secret
}

/// Whether a Secret is a token for hosts that join.
fn is_ours(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(BootstrapToken::SECRET_TYPE)
        && field(secret, "auth-extra-groups")
            .is_some_and(|groups| groups.split(',').any(|group| group == JOINERS_GROUP))
}

fn field(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    Some(String::from_utf8_lossy(&bytes.0).into_owned())
}

/// What to type on the host that is to join.
fn join_command(server: &str, token: &BootstrapToken, hashes: &[CaHash]) -> String {
    let hashes: Vec<String> = hashes.iter().map(|hash| format!("--ca-hash {hash}")).collect();
    format!("ovm-agent join --server {server} --token {token} {}", hashes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_kubernetes_own() {
        let token: BootstrapToken = "07401b.f395accd246ae52d".parse().unwrap();
        let secret = secret(&token, Timestamp::UNIX_EPOCH, Some("n1"));
        let wanted = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
            "metadata": {"name": "bootstrap-token-07401b", "annotations": {"kubevirt.io/replaces-node": "n1"}},
            "stringData": {
                "token-id": "07401b", "token-secret": "f395accd246ae52d", "description": DESCRIPTION,
                "expiration": "1970-01-01T00:00:00Z", "usage-bootstrap-authentication": "true",
                "auth-extra-groups": "system:bootstrappers:kubevirt-io:node",
            },
        });
        assert_eq!(serde_json::to_value(secret).unwrap(), wanted);
    }

    #[test]
    fn the_command_can_be_typed_as_it_is() {
        let hash: CaHash = format!("sha256:{}", "ab".repeat(32)).parse().unwrap();
        let command = join_command("https://h:6443", &"07401b.f395accd246ae52d".parse().unwrap(), &[hash]);
        let wanted = "ovm-agent join --server https://h:6443 --token 07401b.f395accd246ae52d --ca-hash sha256:";
        assert!(command.strip_prefix(wanted).is_some_and(|rest| rest == "ab".repeat(32)), "{command}");
    }

    #[test]
    fn a_token_is_made_of_this_hosts_randomness() {
        assert_ne!(random_token().unwrap(), random_token().unwrap());
    }
}
