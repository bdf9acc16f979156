//! The devices of a domain, one file each. The order here is the order in the document.

pub(crate) mod alias;
mod controller;
mod disk;
mod disk_source;
mod graphics;
mod interface;
mod memballoon;
mod panic;
mod rng;
mod serial;
mod video;
mod watchdog;

use serde::Serialize;

use self::controller::Controller;
use self::disk::Disk;
use self::graphics::Graphics;
use self::interface::Interface;
use self::memballoon::MemBalloon;
use self::panic::Panic;
use self::rng::Rng;
use self::serial::Serial;
use self::video::Video;
use self::watchdog::Watchdog;
use crate::text::check_path;
use crate::{DomainInput, RenderError};

/// `<devices>`
#[derive(Debug, Serialize)]
pub(crate) struct Devices<'a> {
    emulator: &'a str,
    #[serde(rename = "disk")]
    disks: Vec<Disk<'a>>,
    #[serde(rename = "controller")]
    controllers: Vec<Controller>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<Interface<'a>>,
    serial: Serial<'a>,
    graphics: Graphics,
    video: Video,
    #[serde(skip_serializing_if = "Option::is_none")]
    watchdog: Option<Watchdog>,
    memballoon: MemBalloon,
    rng: Rng,
    panic: Panic,
}

impl<'a> Devices<'a> {
    pub(crate) fn make(input: &DomainInput<'a>) -> Result<Self, RenderError> {
        let disks = Disk::make_all(input)?;
        Ok(Self {
            emulator: check_path(&"emulator", input.emulator)?,
            controllers: Controller::make_all(&disks),
            disks,
            interface: Interface::make(input)?,
            serial: Serial::make(input)?,
            graphics: Graphics::make(),
            video: Video::make(),
            watchdog: input.spec.watchdog.as_ref().map(Watchdog::make),
            memballoon: MemBalloon::make(),
            rng: Rng::make(),
            panic: Panic::make(),
        })
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
