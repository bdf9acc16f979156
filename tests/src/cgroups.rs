//! Control groups: a cluster's pods have a folder of the cluster's name in each hierarchy, a host has one in those by which systemd knows what belongs to a unit.
//! Nobody but us removes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::wait::wait_for;

const ROOT: &str = "/sys/fs/cgroup";

/// Killed processes leave their groups within moments.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why pods cannot have control groups here; `None` if they can.
pub(crate) fn why_unsupported() -> Option<String> {
    let memory = Path::new(ROOT).join("memory");
    (!memory.is_dir()).then(|| format!("{} is not there: only cgroup v1 is known to work", memory.display()))
}

/// Makes the groups of a node.
pub(crate) fn make(cluster: &str, node: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(cluster).join(node);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        // A group without processors and memory takes no process.
        if hierarchy.ends_with("cpuset") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read(hierarchy.join(file)).with_context(|| format!("read {file}"))?;
                for folder in [hierarchy.join(cluster), folder.clone()] {
                    fs::write(folder.join(file), &value).with_context(|| format!("write {file}"))?;
                }
            }
        }
    }
    Ok(())
}

/// Removes the groups of a cluster whose processes are gone.
pub(crate) fn remove(cluster: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(cluster);
        if folder.is_dir() {
            wait_for("the control groups are empty", DEADLINE, || remove_folder(&folder))?;
        }
    }
    Ok(())
}

/// Shell words: joins the groups that come before `--`, and becomes the program behind it.
pub(crate) const ENTER: &str =
    r#"while [ "$1" != -- ]; do echo $$ > "$1/cgroup.procs" || exit; shift; done; shift; exec "$@""#;

/// The control groups of a host with a systemd of its own. Two systemds in one group would end each other's services. Dropping it removes them.
#[derive(Debug)]
pub(crate) struct HostGroups {
    folders: Vec<PathBuf>,
}

impl HostGroups {
    /// Makes them, below those of this process.
    ///
    /// # Errors
    /// When they cannot be made.
    pub(crate) fn make(name: &str) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("read the control groups of this process")?;
        let mut groups = Self { folders: Vec::new() };
        for (hierarchy, path) in own.lines().filter_map(|line| line.split_once(':')?.1.split_once(':')) {
            let mounts: &[&str] = match hierarchy {
                "" => &["unified", "."],
                "name=systemd" => &["systemd"],
                _ => continue,
            };
            let root = Path::new(ROOT);
            let mount = mounts.iter().map(|mount| root.join(mount)).find(|mount| mount.join("cgroup.procs").exists());
            let Some(mount) = mount else { continue };
            let folder = mount.join(path.trim_start_matches('/')).join(name);
            fs::create_dir(&folder).with_context(|| format!("make {}", folder.display()))?;
            groups.folders.push(folder);
        }
        Ok(groups)
    }

    /// For [`ENTER`].
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }
}

impl Drop for HostGroups {
    fn drop(&mut self) {
        for folder in &self.folders {
            if let Err(error) = wait_for("the control groups are empty", DEADLINE, || remove_folder(folder)) {
                eprintln!("control groups are left: {error:#}");
            }
        }
    }
}

fn remove_folder(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("list {}", folder.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_folder(&entry.path())?;
        }
    }
    fs::remove_dir(folder).with_context(|| format!("remove {}", folder.display()))
}

fn hierarchies() -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(ROOT).with_context(|| format!("list {ROOT}"))?;
    let folders = entries.filter_map(Result::ok).map(|entry| entry.path());
    // Links name the same hierarchy twice.
    Ok(folders.filter(|path| path.is_dir() && !path.is_symlink() && !path.ends_with("unified")).collect())
}
