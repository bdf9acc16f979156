//! Container images of controller and agent, as OCI archives in `target/images`, each with a list of what is in it.

mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::process;
use crate::workspace::Workspace;

/// The tag that `manifests/overlays/dev` names.
const TAG: &str = "dev";
/// A user of no host.
const NOBODY: &str = "65532:65532";
/// What a Rust program is linked against.
const C_LIBRARY: [&str; 6] = [
    "lib64/ld-linux-x86-64.so.2",
    "usr/lib/x86_64-linux-gnu/libc.so.6",
    "usr/lib/x86_64-linux-gnu/libm.so.6",
    "usr/lib/x86_64-linux-gnu/libgcc_s.so.1",
    "usr/share/doc/libc6/copyright",
    "usr/share/doc/gcc-12-base/copyright",
];
/// The packages that those files are of.
const C_LIBRARY_PACKAGES: [&str; 3] = ["libc6", "libgcc-s1", "gcc-12-base"];

/// How the programs are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// As users run them
    Release,
    /// Quick to build, slow to run
    Dev,
}

/// An image.
struct Image<'a> {
    name: &'a str,
    /// The one user of its processes; manifests may choose another.
    user: &'a str,
    /// Folders whose content makes its file system, each copied over the one before.
    roots: Vec<PathBuf>,
    labels: Vec<(&'a str, String)>,
    components: Vec<sbom::Component>,
}

/// Debian packages, unpacked.
struct Debian {
    root: PathBuf,
    packages: Vec<sbom::Component>,
}

/// What all images of one run share.
struct Build<'a> {
    workspace: &'a Workspace,
    /// `target/images` of the repository, wherever cargo builds: scripts rely on that name.
    folder: PathBuf,
    /// The commit, and its time in seconds, which every file in an image carries.
    revision: String,
    epoch: String,
}

/// Builds both images.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Result<()> {
    ensure_buildah()?;
    let folder = workspace.root.join("target/images");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let git = |arguments: &[&str]| process::output(Command::new("git").args(arguments).current_dir(&workspace.root));
    let build = Build {
        workspace,
        folder,
        revision: git(&["rev-parse", "HEAD"])?,
        epoch: git(&["log", "-1", "--format=%ct"])?,
    };
    let debian = Debian::unpack(workspace, &build.folder.join("debian"))?;
    let programs = compile(workspace, profile)?;
    build.write(&build.controller(&debian, &programs)?)?;
    build.write(&build.agent(&debian, &programs)?)
}

/// Builds the programs in one go with their neighbours, so that no dependency is compiled a second time with other features. The folder of programs.
fn compile(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    match profile {
        Profile::Release => {
            workspace.build_release(&[])?;
            Ok(workspace.target.join("release"))
        }
        Profile::Dev => {
            process::run(workspace.cargo("build").args(["--locked", "--workspace", "--bins"]))?;
            Ok(workspace.target.join("debug"))
        }
    }
}

/// Only images need it, so it is installed when the first is built.
fn ensure_buildah() -> Result<()> {
    if process::find("buildah").is_some() {
        return Ok(());
    }
    println!("images: installing buildah");
    process::run(Command::new("apt-get").args(["update", "-qq"]))?;
    process::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends", "buildah"])
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
    .context("buildah cannot be installed; install it by hand")
}

impl Debian {
    /// Fetches what is not there yet, in the versions that the host has: the programs are linked against them.
    fn unpack(workspace: &Workspace, folder: &Path) -> Result<Self> {
        process::run(Command::new(workspace.root.join("xtask/images/debian-root.sh")).arg(folder))?;
        let file = folder.join("packages.tsv");
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let packages = text.lines().map(sbom::Component::debian).collect::<Result<_>>()?;
        Ok(Self { root: folder.join("root"), packages })
    }

    fn version(&self, package: &str) -> Result<String> {
        let found = self.packages.iter().find(|candidate| candidate.name == package);
        found.map(|package| package.version.clone()).with_context(|| format!("{package} is not in the image"))
    }
}

impl Build<'_> {
    /// The program, and Debian's C library: nothing else.
    fn controller(&self, debian: &Debian, programs: &Path) -> Result<Image<'_>> {
        let root = self.root_with(programs, "ovm-controller")?;
        for file in C_LIBRARY {
            let to = root.join(file);
            let folder = to.parent().context("a library is in a folder")?;
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
            fs::copy(debian.root.join(file), &to).with_context(|| format!("copy {file}"))?;
        }
        let mut components = sbom::crates(self.workspace, "controller")?;
        components.extend(debian.packages.iter().filter(|p| C_LIBRARY_PACKAGES.contains(&p.name.as_str())).cloned());
        Ok(Image { name: "ovm-controller", user: NOBODY, roots: vec![root], labels: Vec::new(), components })
    }

    /// A minimal Debian with libvirt's client library and qemu-img.
    fn agent(&self, debian: &Debian, programs: &Path) -> Result<Image<'_>> {
        let labels = vec![
            ("io.kubevirt.ovm.debian", debian.version("base-files")?),
            ("io.kubevirt.ovm.libvirt0", debian.version("libvirt0")?),
            ("io.kubevirt.ovm.qemu-utils", debian.version("qemu-utils")?),
        ];
        let mut components = sbom::crates(self.workspace, "agent")?;
        components.extend(debian.packages.iter().cloned());
        let roots = vec![debian.root.clone(), self.root_with(programs, "ovm-agent")?];
        Ok(Image { name: "ovm-agent", user: "0:0", roots, labels, components })
    }

    /// A folder of its own with one program, without debug information, in `usr/bin`.
    fn root_with(&self, programs: &Path, program: &str) -> Result<PathBuf> {
        let root = self.folder.join("programs").join(program);
        let directory = root.join("usr/bin");
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        process::run(
            Command::new("strip")
                .arg("--strip-debug")
                .arg("-o")
                .args([directory.join(program), programs.join(program)]),
        )?;
        Ok(root)
    }

    fn write(&self, image: &Image<'_>) -> Result<()> {
        let archive = self.folder.join(format!("{}.tar", image.name));
        let storage = self.folder.join("storage");
        let buildah = |arguments: &[&str]| {
            let mut command = Command::new("buildah");
            command.args(["--storage-driver", "vfs", "--root"]).arg(&storage);
            command.arg("--runroot").arg(self.folder.join("run")).args(arguments);
            command
        };
        let container = process::output(&mut buildah(&["from", "scratch"]))?;
        for root in &image.roots {
            process::output(buildah(&["copy", "--quiet", &container]).arg(root).arg("/"))?;
        }
        let mut config = buildah(&["config", "--user", image.user, "--cmd", ""]);
        config.args(["--entrypoint", &format!("[\"/usr/bin/{}\"]", image.name), "--env", "PATH=/usr/bin"]);
        for (key, value) in self.labels(image) {
            config.args(["--label", &format!("{key}={value}")]);
        }
        process::output(config.arg(&container))?;
        // An archive is added to, where there is one.
        fs::remove_file(&archive).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error).with_context(|| format!("remove {}", archive.display())),
        })?;
        let target = format!("oci-archive:{}:localhost/{}:{TAG}", archive.display(), image.name);
        let policy = self.folder.join("policy.json");
        fs::write(&policy, r#"{"default": [{"type": "insecureAcceptAnything"}]}"#).context("write policy.json")?;
        let mut commit = buildah(&["commit", "--quiet", "--rm", "--format", "oci", "--timestamp", &self.epoch]);
        commit.arg("--disable-compression=false");
        commit.arg("--signature-policy").arg(&policy).args([&container, &target]);
        let committed = process::output(&mut commit);
        process::output(&mut buildah(&["rmi", "--all", "--force"]))?;
        committed?;
        let list = self.folder.join(format!("{}.cdx.json", image.name));
        let document = sbom::document(image.name, &self.workspace.version()?, &self.epoch, &image.components)?;
        fs::write(&list, document).with_context(|| format!("write {}", list.display()))?;
        let bytes = fs::metadata(&archive).with_context(|| format!("read {}", archive.display()))?.len();
        ensure!(bytes > 0, "buildah wrote nothing to {}", archive.display());
        println!(
            "images: {} ({} MB, {} components in {})",
            archive.display(),
            bytes / 1_000_000,
            image.components.len(),
            list.display()
        );
        Ok(())
    }

    fn labels(&self, image: &Image<'_>) -> Vec<(String, String)> {
        let opencontainers = [
            ("title", image.name.to_owned()),
            ("revision", self.revision.clone()),
            ("licenses", "Apache-2.0".to_owned()),
        ];
        let standard = opencontainers.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value));
        standard.into_iter().chain(image.labels.iter().map(|(key, value)| ((*key).to_owned(), value.clone()))).collect()
    }
}
