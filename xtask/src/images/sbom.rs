//! What is in an image, as a CycloneDX list: crates from cargo's resolution, Debian packages from dpkg.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::process;
use crate::workspace::Workspace;

/// The platform that the images are for.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// A crate or a package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Component {
    pub(super) name: String,
    pub(super) version: String,
    /// Package URL (<https://github.com/package-url/purl-spec>).
    purl: String,
    /// SPDX expression, where it is known.
    license: Option<String>,
}

impl Component {
    /// Reads a line of `packages.tsv`: package, version, architecture, source.
    pub(super) fn debian(line: &str) -> Result<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        let [name, version, architecture, source] = fields[..] else { anyhow::bail!("not a line of dpkg's: {line:?}") };
        let escaped = version.replace('+', "%2B").replace(':', "%3A");
        let purl = format!("pkg:deb/debian/{name}@{escaped}?arch={architecture}&upstream={source}");
        Ok(Self { name: name.to_owned(), version: version.to_owned(), purl, license: None })
    }

    fn json(&self) -> Value {
        let mut value = json!({"type": "library", "bom-ref": self.purl, "name": self.name, "version": self.version, "purl": self.purl});
        if let Some(license) = &self.license {
            value["licenses"] = json!([{"expression": license}]);
        }
        value
    }
}

/// The crates that a package's programs are made of: what it needs to run, and nothing of its tests or build scripts.
pub(super) fn crates(workspace: &Workspace, package: &str) -> Result<Vec<Component>> {
    let text = process::output(workspace.cargo("metadata").args([
        "--locked",
        "--format-version",
        "1",
        "--filter-platform",
        PLATFORM,
    ]))?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo's metadata")?;
    reachable(&metadata, package)
}

fn reachable(metadata: &Value, package: &str) -> Result<Vec<Component>> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<_, _> = list(&metadata["packages"]).into_iter().map(|p| (text(&p["id"]), p)).collect();
    let nodes: BTreeMap<_, _> = list(&metadata["resolve"]["nodes"]).into_iter().map(|n| (text(&n["id"]), n)).collect();
    let (root, _) = packages
        .iter()
        .find(|(_, p)| p["name"] == package && p["source"].is_null())
        .with_context(|| format!("cargo knows no package {package}"))?;
    let (mut seen, mut open) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(id) = open.pop() {
        let dependencies = list(&nodes.get(&id).with_context(|| format!("cargo did not resolve {id}"))?["deps"]);
        if seen.insert(id) {
            let runs = |d: &Value| list(&d["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
            open.extend(dependencies.iter().filter(|d| runs(d)).map(|d| text(&d["pkg"])));
        }
    }
    let component = |id: &String| {
        let package = packages.get(id).with_context(|| format!("cargo does not describe {id}"))?;
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        // Older crates write `MIT/Apache-2.0`.
        let license = package["license"].as_str().map(|license| license.replace('/', " OR "));
        Ok(Component { purl: format!("pkg:cargo/{name}@{version}"), name, version, license })
    };
    let mut components: Vec<_> = seen.iter().map(component).collect::<Result<_>>()?;
    components.sort();
    Ok(components)
}

/// The list of an image.
pub(super) fn document(image: &str, version: &str, epoch: &str, components: &[Component]) -> Result<String> {
    let time = process::output(Command::new("date").args(["-u", "-d", &format!("@{epoch}"), "+%Y-%m-%dT%H:%M:%SZ"]))?;
    let rust = process::output(Command::new("rustc").arg("--version"))?;
    let document = json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": {
            "timestamp": time,
            "component": {"type": "container", "bom-ref": image, "name": image, "version": version},
            "properties": [{"name": "rustc", "value": rust}],
        },
        "components": components.iter().map(Component::json).collect::<Vec<_>>(),
    });
    Ok(format!("{}\n", serde_json::to_string_pretty(&document).context("write the list")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_program_runs_with_is_listed() {
        let dependency = |name: &str, kind: Value| json!({"pkg": name, "dep_kinds": [{"kind": kind}]});
        let package = |name: &str, source: Value| json!({"id": name, "name": name, "version": "1.0.0", "source": source, "license": "MIT/Apache-2.0"});
        let metadata = json!({
            "packages": [package("ours", Value::Null), package("runs", json!("r")), package("below", json!("r")), package("tests", json!("r"))],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [dependency("runs", Value::Null), dependency("tests", json!("dev"))]},
                {"id": "runs", "deps": [dependency("below", Value::Null), dependency("tests", json!("build"))]},
                {"id": "below", "deps": []},
                {"id": "tests", "deps": []},
            ]},
        });
        let found = reachable(&metadata, "ours").unwrap();
        assert_eq!(found.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["below", "ours", "runs"]);
        assert_eq!(found[0].json()["licenses"][0]["expression"], "MIT OR Apache-2.0");
        reachable(&metadata, "absent").unwrap_err();
    }

    #[test]
    fn a_debian_version_is_escaped_in_a_package_url() {
        let component = Component::debian("qemu-utils\t1:10.0.2+ds-2\tamd64\tqemu").unwrap();
        assert_eq!(component.version, "1:10.0.2+ds-2");
        assert_eq!(component.purl, "pkg:deb/debian/qemu-utils@1%3A10.0.2%2Bds-2?arch=amd64&upstream=qemu");
        Component::debian("no tabs").unwrap_err();
    }
}
