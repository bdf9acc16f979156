//! The manifests on a real API server: applied, applied again, taken away; and what they keep people from doing by mistake.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::client::Client;
use tests::kube::{ControlPlane, why_unavailable};
use tests::ports::free_address;
use tests::programs::{failure, output, program, repository, say_skipped};
use tests::wait::wait_for;

const DEADLINE: Duration = Duration::from_mins(2);
const KINDS: [&str; 2] = ["offlinevirtualmachines.kubevirt.io", "virtualmachines.kubevirt.io"];

/// A control plane alone; none where there is none to be had, which is said.
fn control_plane(test: &str) -> Result<Option<ControlPlane>> {
    if let Some(reason) = why_unavailable() {
        tests::programs::say_skipped(test, &reason);
        return Ok(None);
    }
    ControlPlane::start().map(Some)
}

fn folder(name: &str) -> String {
    repository().join("manifests").join(name).display().to_string()
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_second_apply_changes_nothing_and_an_uninstall_leaves_the_machines() -> Result<()> {
    let Some(control_plane) = control_plane("a_second_apply_changes_nothing_and_an_uninstall_leaves_the_machines")?
    else {
        return Ok(());
    };
    let admin = control_plane.admin();
    let dev = folder("overlays/dev");
    // An object of before, as after an upgrade: with nobody behind the webhook's service, none is created later.
    admin.kubectl(&["apply", "-k", &folder("crd")])?;
    admin.kubectl(&["wait", "--for=condition=Established", "crd", KINDS[0], KINDS[1], "--timeout=60s"])?;
    admin.create(&json!({"apiVersion": "kubevirt.io/v1alpha1", "kind": "OfflineVirtualMachine", "metadata": {"name": "kept", "namespace": "default"},
        "spec": {"running": false, "template": {"spec": {"domain": {"devices": {}}}}}}))?;
    let applied = admin.kubectl(&["apply", "-k", &dev])?;
    ensure!(applied.contains("daemonset.apps/ovm-agent created"), "{applied}");

    let before = specifications(&admin, &dev)?;
    let again = admin.kubectl(&["apply", "-k", &dev])?;
    let changed: Vec<&str> = again.lines().filter(|line| !line.ends_with(" unchanged")).collect();
    // kubectl sends every PodDisruptionBudget's selector each time, and calls that configured.
    ensure!(changed.iter().all(|line| *line == "poddisruptionbudget.policy/ovm-controller configured"), "{changed:?}");
    ensure!(specifications(&admin, &dev)? == before, "the second apply changed something");

    // The controller itself, with the rights that the manifests give it, writes its certificate authority.
    let rights = control_plane.service_account("kubevirt-system", "ovm-controller", None)?;
    let log = control_plane.directory().join("ovm-controller.log");
    let mut controller = Command::new(program("ovm-controller")?);
    controller.arg("--kubeconfig").arg(&rights).args(["--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0"]);
    controller.stdout(Stdio::null()).stderr(fs::File::create(&log).context("make the log")?);
    let controller = Running(controller.spawn().context("run ovm-controller")?);
    let bundle = |path: &str, field: &str| {
        let object = admin.get(path)?.with_context(|| format!("{path} is gone"))?;
        let text = object.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        ensure!(!text.is_empty(), "{path} has no {field}");
        anyhow::Ok(text)
    };
    let webhook = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/ovm-controller";
    let service = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.subresources.kubevirt.io";
    let bundles = || {
        anyhow::Ok([
            bundle(webhook, "/webhooks/0/clientConfig/caBundle")?,
            bundle(webhook, "/webhooks/1/clientConfig/caBundle")?,
            bundle(service, "/spec/caBundle")?,
        ])
    };
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let written = wait_for("the controller has written its authority", DEADLINE, bundles).with_context(said)?;
    let refused: Vec<String> = said().lines().filter(|line| line.contains("forbidden")).map(str::to_owned).collect();
    ensure!(refused.is_empty(), "the controller lacks rights: {refused:?}");
    drop(controller);
    admin.kubectl(&["apply", "-k", &dev])?;
    ensure!(bundles()? == written, "an apply took the authority away");
    // By a dry run of the server.
    let difference = admin.kubectl(&["diff", "-k", &dev])?;
    ensure!(difference.is_empty(), "{difference}");

    for kind in KINDS {
        let said = admin.kubectl_fails(&["delete", "crd", kind])?;
        ensure!(said.contains(&format!("kubectl annotate crd {kind} kubevirt.io/allow-deletion=true")), "{said}");
    }
    admin.kubectl(&["delete", "-k", &folder("uninstall")])?;
    let left = admin.kubectl(&["get", "-k", &dev, "--ignore-not-found", "-o", "name"])?;
    let mut left: Vec<&str> = left.lines().collect();
    left.sort_unstable();
    let definitions = KINDS.map(|kind| format!("customresourcedefinition.apiextensions.k8s.io/{kind}"));
    ensure!(left == [definitions[0].as_str(), definitions[1].as_str(), "namespace/kubevirt-system"], "{left:?}");
    admin.kubectl(&["get", "ovm", "kept"]).map(drop)
}

#[test]
fn a_definition_is_deleted_by_those_who_said_so() -> Result<()> {
    let Some(control_plane) = control_plane("a_definition_is_deleted_by_those_who_said_so")? else { return Ok(()) };
    let admin = control_plane.admin();
    admin.kubectl(&["apply", "-k", &folder("overlays/dev")])?;
    wait_for("the guard is in force", DEADLINE, || {
        let said = admin.kubectl_fails(&["delete", "crd", KINDS[0], "--dry-run=server"])?;
        ensure!(said.contains("deletes all offlinevirtualmachines of this cluster"), "{said}");
        Ok(())
    })?;
    admin.kubectl(&["annotate", "crd", KINDS[0], "kubevirt.io/allow-deletion=true"])?;
    admin.kubectl(&["delete", "crd", KINDS[0]])?;
    admin.kubectl_fails(&["get", "crd", KINDS[0]]).map(drop)
}

#[test]
fn kubevirts_own_definitions_are_left_as_they_are() -> Result<()> {
    let Some(control_plane) = control_plane("kubevirts_own_definitions_are_left_as_they_are")? else { return Ok(()) };
    let admin = control_plane.admin();
    let version = |name: &str, is_stored: bool| {
        json!({"name": name, "served": true, "storage": is_stored, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
    };
    // As KubeVirt 1.x has it after an upgrade: objects may be stored in either version.
    let mut theirs = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": KINDS[1], "labels": {"kubevirt.io": "", "app.kubernetes.io/managed-by": "virt-operator"}},
        "spec": {"group": "kubevirt.io", "scope": "Namespaced", "names": {"plural": "virtualmachines", "singular": "virtualmachine",
            "kind": "VirtualMachine", "shortNames": ["vm", "vms"], "categories": ["all"]}}});
    theirs["spec"]["versions"] = json!([version("v1alpha3", true), version("v1", false)]);
    admin.create(&theirs)?;
    let newer = json!({"spec": {"versions": [version("v1alpha3", false), version("v1", true)]}});
    admin.kubectl(&["patch", "crd", KINDS[1], "--type=merge", "-p", &newer.to_string()])?;
    admin.kubectl(&["wait", "--for=condition=Established", "crd", KINDS[1], "--timeout=60s"])?;
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}", KINDS[1]);
    let read = || anyhow::Ok(admin.get(&path)?.context("it is there")?);
    let before = read()?;
    ensure!(before["status"]["storedVersions"] == json!(["v1alpha3", "v1"]), "{}", before["status"]);
    admin.create(&json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "theirs", "namespace": "default"}}))?;

    the_chart_looks_first(&control_plane, &admin)?;
    let said = admin.kubectl_fails(&["apply", "-k", &folder("overlays/dev")])?;
    ensure!(said.contains(KINDS[1]) && said.contains("storedVersions"), "{said}");
    let after = read()?;
    ensure!(after["spec"] == before["spec"] && after["metadata"]["labels"] == before["metadata"]["labels"], "{after}");
    admin.kubectl(&["get", "virtualmachines.v1.kubevirt.io", "theirs"])?;
    // Nor do our rules stand in their way.
    admin.kubectl(&["label", "virtualmachines.v1.kubevirt.io", "theirs", "a=b"])?;
    admin.kubectl(&["delete", "crd", KINDS[1], "--dry-run=server"])?;
    a_controller_does_nothing_but_say_so(&control_plane, &admin)
}

/// Where kubectl applies what it can, helm installs nothing.
fn the_chart_looks_first(control_plane: &ControlPlane, admin: &Client) -> Result<()> {
    if let Err(error) = output(Command::new("helm").arg("version")) {
        say_skipped("the_chart_looks_first", &format!("helm cannot be run: {error:#}"));
        return Ok(());
    }
    let mut install = Command::new("helm");
    install.args(["install", "ovm", "--namespace", "kubevirt-system", "--create-namespace"]);
    install.arg(repository().join("charts/ovm")).env("KUBECONFIG", control_plane.kubeconfig());
    let said = failure(install.env("HOME", control_plane.directory()))?;
    ensure!(said.contains(KINDS[1]) && said.contains("KubeVirt's own"), "{said}");
    let installed =
        ["get", "clusterroles,validatingadmissionpolicies", "-l", "app.kubernetes.io/part-of=ovm", "-o", "name"];
    let installed = admin.kubectl(&installed)?;
    ensure!(installed.is_empty(), "helm has installed {installed}");
    Ok(())
}

/// On definitions of somebody else; and it begins when they are ours.
fn a_controller_does_nothing_but_say_so(control_plane: &ControlPlane, admin: &Client) -> Result<()> {
    let log = control_plane.directory().join("ovm-controller.log");
    let metrics = free_address()?.to_string();
    let mut controller = Command::new(program("ovm-controller")?);
    controller.arg("--kubeconfig").arg(control_plane.service_account("kubevirt-system", "ovm-controller", None)?);
    controller.args(["--listen=127.0.0.1:0", "--metrics-listen", &metrics]);
    controller.stdout(Stdio::null()).stderr(fs::File::create(&log).context("make the log")?);
    let _controller = Running(controller.spawn().context("run ovm-controller")?);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let url = format!("http://{metrics}/readyz");
    wait_for("the controller says whose definition it is", DEADLINE, || {
        let ready = output(Command::new("curl").args(["--silent", "--show-error", &url]))?;
        ensure!(ready.contains(KINDS[1]), "/readyz says {ready}");
        let told = admin.kubectl(&["get", "events", "-A", "--field-selector", "reason=ForeignDefinition"])?;
        ensure!(told.contains(KINDS[1]), "the events are {told}");
        ensure!(said().contains(KINDS[1]), "the log does not name it");
        Ok(())
    })
    .with_context(said)?;
    let written = ["get", "secrets,configmaps,leases", "-n", "kubevirt-system", "-o", "name"];
    let all = admin.kubectl(&written)?;
    let ours: Vec<&str> = all.lines().filter(|line| line.contains("ovm-")).collect();
    ensure!(ours.is_empty(), "it has made {ours:?}");
    let bundles = ["get", "apiservices/v1alpha1.subresources.kubevirt.io", "-o", "jsonpath={.spec.caBundle}"];
    ensure!(admin.kubectl(&bundles)?.is_empty(), "it has written its authority into the APIService");

    admin.kubectl(&["delete", "crd", KINDS[1]])?;
    admin.kubectl(&["apply", "-k", &folder("overlays/dev")])?;
    wait_for("the controller begins", DEADLINE, || {
        let all = admin.kubectl(&written)?;
        for name in
            ["secret/ovm-controller-tls", "configmap/ovm-controller-ca", "lease.coordination.k8s.io/ovm-controller"]
        {
            ensure!(all.lines().any(|line| line == name), "there is no {name} in {all}");
        }
        Ok(())
    })
    .with_context(said)
}

#[test]
fn users_have_what_their_role_in_the_namespace_says() -> Result<()> {
    const TABLE: &[(&str, &str, [&str; 3])] = &[
        // verb, resource, and whether view, edit and admin may
        ("list", "offlinevirtualmachines.kubevirt.io", ["yes", "yes", "yes"]),
        ("watch", "virtualmachines.kubevirt.io", ["yes", "yes", "yes"]),
        ("create", "offlinevirtualmachines.kubevirt.io", ["no", "yes", "yes"]),
        ("patch", "offlinevirtualmachines.kubevirt.io", ["no", "yes", "yes"]),
        ("delete", "virtualmachines.kubevirt.io", ["no", "yes", "yes"]),
        ("get", "virtualmachines.subresources.kubevirt.io/console", ["no", "yes", "yes"]),
        ("get", "virtualmachines.subresources.kubevirt.io/vnc", ["no", "yes", "yes"]),
        ("get", "virtualmachines.subresources.kubevirt.io/test", ["yes", "yes", "yes"]),
        ("get", "virtualmachines.subresources.kubevirt.io/userdata", ["no", "no", "no"]),
        ("update", "virtualmachines.kubevirt.io/status", ["no", "no", "no"]),
        ("patch", "offlinevirtualmachines.kubevirt.io/status", ["no", "no", "no"]),
    ];
    const ROLES: [&str; 3] = ["view", "edit", "admin"];
    let Some(control_plane) = control_plane("users_have_what_their_role_in_the_namespace_says")? else { return Ok(()) };
    let admin = control_plane.admin();
    admin.kubectl(&["apply", "-k", &folder("overlays/dev")])?;
    for role in ROLES {
        let (cluster_role, user) = (format!("--clusterrole={role}"), format!("--user={role}er"));
        admin.kubectl(&["create", "rolebinding", role, &cluster_role, &user])?;
    }
    // A review by hand, because `kubectl auth can-i` asks the aggregated API what it has, and nobody serves it here.
    let review = |user: &str, verb: &str, resource: &str| {
        let (kind, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let (plural, group) = kind.split_once('.').unwrap_or((kind, ""));
        let attributes = json!({"namespace": "default", "verb": verb, "group": group, "resource": plural, "subresource": subresource});
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": user, "resourceAttributes": attributes}});
        let (_, answer) = admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)?;
        anyhow::Ok(if answer["status"]["allowed"] == true { "yes" } else { "no" })
    };
    wait_for("the cluster's roles have taken ours in", DEADLINE, || {
        for (verb, resource, expected) in TABLE {
            for (role, expected) in ROLES.iter().zip(expected) {
                let found = review(&format!("{role}er"), verb, resource)?;
                ensure!(found == *expected, "{role}: {verb} {resource}: {found}, not {expected}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_chart_without_values_is_the_base() -> Result<()> {
    if let Err(error) = output(Command::new("helm").arg("version")) {
        say_skipped("the_chart_without_values_is_the_base", &format!("helm cannot be run: {error:#}"));
        return Ok(());
    }
    let chart = repository().join("charts/ovm");
    let inside = ["--namespace", "kubevirt-system"];
    output(Command::new("helm").arg("lint").arg(&chart).args(inside))?;
    let mut template = Command::new("helm");
    template.args(["template", "ovm", "--kube-version", "1.36"]).arg(&chart).args(inside);
    let rendered = output(&mut template)?.replace("  annotations:\n    helm.sh/resource-policy: keep\n", "");
    // kustomize writes both: in one order, and in one of the many ways to write a text.
    let home = tempfile::tempdir().context("make a folder")?;
    fs::write(home.path().join("chart.yaml"), rendered).context("write the chart's objects")?;
    fs::copy(repository().join("manifests/base/namespace.yaml"), home.path().join("namespace.yaml"))?;
    fs::write(home.path().join("kustomization.yaml"), "resources: [chart.yaml, namespace.yaml]\n")?;
    let written = |folder: &str| output(Command::new("kubectl").args(["kustomize", folder]));
    let (ours, base) = (written(&home.path().display().to_string())?, written(&folder("base"))?);
    let difference = ours.lines().zip(base.lines()).find(|(ours, base)| ours != base);
    ensure!(ours == base, "the chart differs from the base, first in {difference:?}");

    // Directories for guests' volumes: told to the agent, and mounted where they are.
    let more = output(template.args(["--set", "agent.volumeRoots={/srv/a,/srv/b}"]))?;
    for line in [
        "- {name: OVM_VOLUME_ROOTS, value: \"/srv/a:/srv/b\"}",
        "- {name: volumes-1, mountPath: \"/srv/b\", mountPropagation: HostToContainer}",
        "hostPath: {path: \"/srv/b\", type: DirectoryOrCreate}",
    ] {
        ensure!(more.lines().any(|one| one.trim() == line), "no line {line} in {more}");
    }
    Ok(())
}

/// The objects of a kustomization as they are stored, without what others than an apply write.
fn specifications(admin: &Client, folder: &str) -> Result<Vec<Value>> {
    let text = admin.kubectl(&["get", "-k", folder, "-o", "json"])?;
    let list: Value = serde_json::from_str(&text).context("read the objects")?;
    let mut objects = list["items"].as_array().context("a list has items")?.clone();
    for object in &mut objects {
        let object = object.as_object_mut().context("an object is one")?;
        object.remove("status");
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("resourceVersion");
        }
    }
    Ok(objects)
}
