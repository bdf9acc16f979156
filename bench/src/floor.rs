//! The floor of a start: libvirt's own define and create, of the same domain with an equal disk, in the same daemon.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use agent::libvirt::Lifecycle;
use anyhow::{Context as _, Result, bail, ensure};
use domain_xml::DomainName;
use tests::programs::output;
use tests::stack::NAMESPACE;
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;

use crate::rig::{Rig, next, press_until_off};

/// Name of the floor's domain.
const NAME: &str = "floor";

/// A domain as the product renders it, without an owner: the agent leaves it alone.
pub(crate) struct Floor {
    connect: Connect,
    xml: String,
    overlay: PathBuf,
    base: PathBuf,
    virtual_bytes: u64,
}

/// What libvirt alone needs to start a guest, and to start it again.
pub(crate) struct StartedAgain {
    /// Define and create of the first domain.
    pub(crate) first: Duration,
    /// From the guest's power-off until the second domain ran: libvirt's own stop, undefine, define and create.
    pub(crate) total: Duration,
}

impl Floor {
    /// Takes the definition of a guest that the product runs; name, UUID, files and metadata aside.
    ///
    /// # Errors
    /// When there is no such guest, or its definition is not as the product writes it.
    pub(crate) fn like(rig: &Rig, guest: &str) -> Result<Self> {
        let connect = Connect::open(Some(&rig.stack.libvirtd.uri())).context("connect to libvirt")?;
        let name = DomainName::new(NAMESPACE, guest);
        let domain = connect.lookup_domain_by_name(name.as_str()).context("find the domain")?;
        let xml = domain.xml_desc(virt::sys::VIR_DOMAIN_XML_INACTIVE).context("read the domain")?;
        let uuid = domain.uuid_string().context("read the domain's UUID")?;
        let observed = domain_xml::parse(&xml).context("understand the domain")?;
        let layers = observed.disks.first().map(|disk| disk.layers.as_slice());
        let Some([overlay, base]) = layers else { bail!("the domain's disk is no overlay on an image: {layers:?}") };
        let files = overlay.parent().context("the disk is in no directory")?;
        let own_files = rig.stack.scratch(NAME);
        fs::create_dir(&own_files).context("make the floor's directory")?;
        let own_overlay = own_files.join(overlay.file_name().context("the disk has no name")?);
        let info = output(Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(overlay))?;
        let info: serde_json::Value = serde_json::from_str(&info).context("read what qemu-img says")?;
        let xml = without_metadata(&xml)?
            .replace(&format!("<name>{name}</name>"), &format!("<name>{NAME}</name>"))
            .replace(&uuid, &Uuid::from_u128(1).to_string())
            .replace(&files.display().to_string(), &own_files.display().to_string());
        ensure!(!xml.contains(guest), "the floor's domain still mentions the guest's: {xml}");
        Ok(Self {
            connect,
            xml,
            overlay: own_overlay,
            base: base.clone(),
            virtual_bytes: info["virtual-size"].as_u64().context("the disk has no size")?,
        })
    }

    /// Defines and starts the domain, waits until libvirt says that it runs, and removes it; returns how long it took until it ran.
    ///
    /// # Errors
    /// When libvirt refuses.
    pub(crate) fn start(&self, rig: &Rig) -> Result<Duration> {
        self.make_overlay()?;
        let (domain, took) = self.define_and_create(rig)?;
        self.remove(&domain)?;
        Ok(took)
    }

    /// Starts the domain, lets its guest power itself off, and puts an equal domain in its place.
    ///
    /// # Errors
    /// When libvirt refuses, or the guest does not see its power button.
    pub(crate) fn start_again(&self, rig: &Rig) -> Result<StartedAgain> {
        self.make_overlay()?;
        let (domain, first) = self.define_and_create(rig)?;
        let mut events = rig.libvirt.events();
        let end = rig.runtime.block_on(press_until_off(rig, &mut events, NAME, domain.uuid()?))?;
        domain.undefine().context("remove the floor's domain")?;
        let (domain, _) = self.define_and_create(rig)?;
        let total = end.powered_off.elapsed();
        self.remove(&domain)?;
        Ok(StartedAgain { first, total })
    }

    fn define_and_create(&self, rig: &Rig) -> Result<(Domain, Duration)> {
        rig.runtime.block_on(async {
            let mut events = rig.libvirt.events();
            let (connect, xml) = (self.connect.clone(), self.xml.clone());
            let begun = Instant::now();
            let created = tokio::task::spawn_blocking(move || {
                let domain = connect.define_domain_xml(&xml)?;
                domain.create()?;
                Ok::<_, virt::error::Error>(domain)
            });
            let running = next(&mut events, NAME, |event| matches!(event, Lifecycle::Started(_))).await;
            let domain = created.await.context("start the floor's domain")?.context("start the floor's domain")?;
            Ok((domain, running?.duration_since(begun)))
        })
    }

    fn remove(&self, domain: &Domain) -> Result<()> {
        domain.destroy().context("end the floor's domain")?;
        domain.undefine().context("remove the floor's domain")?;
        fs::remove_file(&self.overlay).context("remove the floor's disk")
    }

    fn make_overlay(&self) -> Result<()> {
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b"]).arg(&self.base);
        output(command.arg(&self.overlay).arg(self.virtual_bytes.to_string())).map(drop)
    }
}

/// The metadata would make it a domain of the installation, whose orphans the agent ends.
fn without_metadata(xml: &str) -> Result<String> {
    let (before, rest) = xml.split_once("<metadata>").context("the domain has no metadata")?;
    let (_, after) = rest.split_once("</metadata>").context("the domain's metadata does not end")?;
    Ok(format!("{before}{after}"))
}
