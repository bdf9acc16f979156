//! Certificates that the controller makes, tells others about, and replaces while it serves.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::machines::bare_machine;
use tests::stack::DEADLINE;
use tests::wait::wait_for;

use crate::world::{SYSTEM, World, refused, scenario};

fn count(bundle: &str) -> usize {
    bundle.matches("BEGIN CERTIFICATE").count()
}

/// Waits until the API server and agents are told to trust exactly what the Secret holds.
fn wait_until_published(world: &World) -> Result<String> {
    wait_for("everybody is told whom to trust", DEADLINE, || {
        let bundle = world.stored("ca.crt")?;
        let published = world.published()?;
        ensure!(published.iter().all(|told| *told == bundle), "of {} authorities: {published:?}", count(&bundle));
        Ok(bundle)
    })
}

/// Both paths from the API server to the controller work.
fn ensure_served(world: &World, name: &str) -> Result<()> {
    wait_for("webhook and aggregated API answer", DEADLINE, || {
        world.admin().kubectl(&["get", "--raw", "/apis/subresources.kubevirt.io/v1alpha1/test"])?;
        let mut broken = bare_machine("default", name, "idle");
        broken["spec"]["volumes"] = json!([]);
        let said = refused(world.admin().create(&broken))?;
        ensure!(said.contains("'root' not found."), "{said}");
        Ok(())
    })
}

/// Puts part of the Secret in place of what is there.
fn replace(world: &World, data: &Value) -> Result<()> {
    let patch = json!({ "stringData": data }).to_string();
    world
        .admin()
        .kubectl(&["patch", "secret", "ovm-controller-tls", "-n", SYSTEM, "--type=merge", "-p", &patch])
        .map(drop)
}

#[test]
fn replicas_agree_on_certificates_and_replace_them_while_they_serve() -> Result<()> {
    scenario("replicas_agree_on_certificates_and_replace_them_while_they_serve", |world| {
        let first = world.start_replica("first")?;
        let second = world.start_replica("second")?;
        let bundle = wait_until_published(world)?;
        ensure!(count(&bundle) == 1, "{} authorities", count(&bundle));
        for address in [first, second] {
            world.lead_to(address)?;
            wait_until_published(world)?;
            ensure_served(world, "a")?;
        }
        // Something else wrote into what is published.
        let nonsense = json!({"data": {"ca.crt": "nonsense"}}).to_string();
        world.admin().kubectl(&[
            "patch",
            "configmap",
            "ovm-controller-ca",
            "-n",
            SYSTEM,
            "--type=merge",
            "-p",
            &nonsense,
        ])?;
        ensure!(wait_until_published(world)? == bundle, "the authority is another");

        // A serving certificate that does not fit its key: leaves are issued anew by the same authority.
        let (certificate, key) = (world.stored("tls.crt")?, world.stored("client.key")?);
        replace(world, &json!({ "tls.key": key }))?;
        wait_for("the leaves are issued anew", DEADLINE, || {
            ensure!(world.stored("tls.crt")? != certificate, "the serving certificate is the old one");
            Ok(())
        })?;
        ensure!(wait_until_published(world)? == bundle, "the authority is another");
        ensure_served(world, "b")?;

        // The Secret is gone: everything is made anew, and both replicas serve it without a restart.
        world.admin().kubectl(&["delete", "secret", "ovm-controller-tls", "-n", SYSTEM])?;
        let next = wait_until_published(world)?;
        ensure!(next != bundle, "the authority is the old one");
        ensure_served(world, "c")?;
        world.lead_to(first)?;
        ensure_served(world, "d")
    })
}

#[test]
fn an_authority_that_ends_soon_gets_a_successor_that_is_trusted_beside_it() -> Result<()> {
    scenario("an_authority_that_ends_soon_gets_a_successor_that_is_trusted_beside_it", |world| {
        world.admin().create(&ending_soon()?)?;
        world.start_controller()?;
        let bundle = wait_for("there are two authorities", DEADLINE, || {
            let bundle = wait_until_published(world)?;
            ensure!(count(&bundle) == 2, "{} authorities", count(&bundle));
            Ok(bundle)
        })?;
        let old = world.admin().get(&format!("/api/v1/namespaces/{SYSTEM}/secrets/ovm-controller-tls"))?;
        let old = old.context("there is no secret")?;
        ensure!(old["metadata"]["labels"]["made-by"] == "test", "the Secret is another");
        ensure!(bundle.trim_end().ends_with(ending_authority(&old)?.trim_end()), "the old authority comes last");
        // The leaves are still the old authority's, which whoever has not looked since trusts too.
        ensure_served(world, "a")
    })
}

/// What the test put into the Secret as its authority.
fn ending_authority(secret: &Value) -> Result<String> {
    secret["metadata"]["annotations"]["authority"].as_str().map(str::to_owned).context("the Secret has no annotation")
}

/// A Secret as a controller wrote it eleven months ago, which has issued leaves since.
fn ending_soon() -> Result<Value> {
    use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
    let at = |days: i64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        time::OffsetDateTime::from_unix_timestamp(i64::try_from(now)? + days * 86_400).context("a date")
    };
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "ovm-controller-ca-old");
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    (authority.not_before, authority.not_after) = (at(-335)?, at(30)?);
    let authority_key = KeyPair::generate()?;
    let authority_pem = authority.self_signed(&authority_key)?.pem();
    let key_pem = authority_key.serialize_pem();
    let issuer = Issuer::new(authority, authority_key);
    let leaf = |names: &[&str], usage| {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "ovm-controller");
        params.subject_alt_names.push(SanType::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()));
        params.extended_key_usages = vec![usage];
        (params.not_before, params.not_after) = (at(-5)?, at(25)?);
        let key = KeyPair::generate()?;
        anyhow::Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let service = "ovm-controller.kubevirt-system.svc";
    let names = [service, "ovm-controller.kubevirt-system.svc.cluster.local", "localhost"];
    let (serving, serving_key) = leaf(&names, ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = leaf(&[], ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": "ovm-controller-tls", "namespace": SYSTEM, "labels": {"made-by": "test"},
            "annotations": {"authority": authority_pem},
        },
        "stringData": {
            "ca.crt": authority_pem, "ca.key": key_pem, "tls.crt": serving, "tls.key": serving_key,
            "client.crt": client, "client.key": client_key,
        },
    }))
}
