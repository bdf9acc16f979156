//! The devices of a domain, one file each. The order here is the order in the document.

pub(crate) mod alias;
mod controller;
mod disk;
mod disk_source;
mod graphics;
mod hub;
mod interface;
mod memballoon;
mod panic;
mod place;
mod rng;
mod serial;
mod video;
mod watchdog;

use self::alias::Alias;
use self::controller::{Controller, Others};
use self::disk::Disk;
use self::interface::Interface;
use self::place::Place;
use self::serial::Serial;
use self::watchdog::Watchdog;
use crate::text::check_path;
use crate::xml::XmlWriter;
use crate::{DeviceAddress, DomainInput, GuestAbi, RenderError};

/// `<devices>`: those that differ from guest to guest. The others have only a `write`.
#[derive(Debug)]
pub(crate) struct Devices<'a> {
    emulator: &'a str,
    disks: Vec<Disk<'a>>,
    controllers: Vec<Controller<'a>>,
    hubs: Vec<&'a DeviceAddress>,
    interface: Option<Interface<'a>>,
    serial: Serial<'a>,
    watchdog: Option<Watchdog<'a>>,
    video: Place<'a>,
    balloon: Place<'a>,
    rng: Place<'a>,
    panic: Place<'a>,
}

impl<'a> Devices<'a> {
    pub(crate) fn make(input: &DomainInput<'a>) -> Result<Self, RenderError> {
        let disks = Disk::make_all(input)?;
        let interface = Interface::make(input)?;
        let card = interface.as_ref().map(|card| (card.is_in_port(), "ua-net0"));
        let others = Others { disks: &disks, card, watchdog: input.spec.watchdog.is_some() };
        let place = |kind: &str| Place::of(input, Alias::of(kind));
        Ok(Self {
            emulator: check_path(&"emulator", input.emulator)?,
            controllers: Controller::make_all(input, others),
            hubs: input.settled().into_iter().flat_map(GuestAbi::hubs).filter_map(|hub| hub.address.as_ref()).collect(),
            disks,
            interface,
            serial: Serial::make(input)?,
            watchdog: input.spec.watchdog.as_ref().map(|watchdog| Watchdog::make(input, watchdog)),
            video: place("video0"),
            balloon: place("balloon0"),
            rng: place("rng0"),
            panic: place("panic0"),
        })
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        xml.element("devices").children(|xml| {
            xml.element("emulator").text(self.emulator);
            self.disks.iter().for_each(|disk| disk.write(xml));
            self.controllers.iter().for_each(|controller| controller.write(xml));
            self.hubs.iter().for_each(|address| hub::write(address, xml));
            self.interface.iter().for_each(|interface| interface.write(xml));
            self.serial.write(xml);
            graphics::write(xml);
            video::write(&self.video, xml);
            self.watchdog.iter().for_each(|watchdog| watchdog.write(xml));
            memballoon::write(&self.balloon, xml);
            rng::write(&self.rng, xml);
            panic::write(&self.panic, xml);
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{Guest, elements};

    #[test]
    fn every_guest_has_the_fixed_devices_once() {
        let cases = [
            ("emulator", "<emulator>/usr/bin/qemu-system-x86_64</emulator>"),
            (
                "serial",
                concat!(
                    r#"<serial type="pty"><log file="/var/log/ovm/60043358-4c58-11e8-8653-525500d15501.log" append="on"/>"#,
                    r#"<target type="isa-serial" port="0"/><alias name="ua-serial0"/></serial>"#
                ),
            ),
            ("graphics", r#"<graphics type="vnc"><listen type="none"/></graphics>"#),
            ("video", r#"<video><model type="vga" vram="16384" heads="1"/><alias name="ua-video0"/></video>"#),
            ("memballoon", r#"<memballoon model="virtio"><alias name="ua-balloon0"/></memballoon>"#),
            (
                "rng",
                r#"<rng model="virtio"><backend model="random">/dev/urandom</backend><alias name="ua-rng0"/></rng>"#,
            ),
            ("panic", r#"<panic model="isa"><alias name="ua-panic0"/></panic>"#),
        ];
        let xml = Guest::with_disks("q35", &[]).xml();
        for (name, expected) in cases {
            assert_eq!(elements(&xml, name), [expected]);
        }
    }
}
