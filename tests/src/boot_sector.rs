//! Guests of 512 bytes. A PC loads the first sector of its disk to 0x7C00 and runs it in 16-bit mode, so each of these is a whole guest: it starts in
//! milliseconds, needs a megabyte, and does one thing. Enough to test how guests live and end.
//!
//! The machine code is written out by hand with its assembly beside it. The ports are those of both PC machines (q35 and i440fx) under SeaBIOS:
//! 0x600 power-management status, 0x602 its enable bits, 0x604 power-management control, 0x64 keyboard controller (reset), 0x505 the ISA panic device,
//! 0x3F8 the first serial port.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Size of a sector.
pub const SECTOR: usize = 512;

/// Powers off at once.
pub const POWER_OFF: [u8; SECTOR] = sector(&[
    0xBA, 0x04, 0x06, //       mov dx, 0x604
    0xB8, 0x00, 0x20, //       mov ax, 0x2000      sleep, type 0: soft off
    0xEF, //                   out dx, ax
    0xFA, //             stop: cli
    0xF4, //                   hlt
    0xEB, 0xFC, //             jmp stop
]);

/// Resets at once, and again after each reset that it survives.
pub const RESET: [u8; SECTOR] = sector(&[
    0xB0, 0xFE, //             mov al, 0xFE        pulse the reset line
    0xE6, 0x64, //             out 0x64, al
    0xFA, //             stop: cli
    0xF4, //                   hlt
    0xEB, 0xFC, //             jmp stop
]);

/// Reports a panic at once, and stops. Without a panic device it only stops.
pub const PANIC: [u8; SECTOR] = sector(&[
    0xBA, 0x05, 0x05, //       mov dx, 0x505
    0xB0, 0x01, //             mov al, 1           panicked
    0xEE, //                   out dx, al
    0xFA, //             stop: cli
    0xF4, //                   hlt
    0xEB, 0xFC, //             jmp stop
]);

/// Does nothing for ever, without using the CPU, and ignores the power button.
pub const IDLE: [u8; SECTOR] = sector(&[
    0xFA, //             stop: cli
    0xF4, //                   hlt
    0xEB, 0xFC, //             jmp stop
]);

/// Writes itself to its whole disk, from the ninth sector on, eight sectors at a time, and then does nothing.
pub const WRITES: [u8; SECTOR] = sector(&[
    0x31, 0xC0, //             xor ax, ax
    0x8E, 0xD8, //             mov ds, ax
    0x8E, 0xD0, //             mov ss, ax
    0xBC, 0x00, 0x7C, //       mov sp, 0x7C00
    0xFB, //                   sti
    0xB4, 0x43, //       next: mov ah, 0x43        extended write, of the drive that we were started from (in dl)
    0xB0, 0x00, //             mov al, 0
    0xBE, 0x27, 0x7C, //       mov si, packet
    0x52, //                   push dx
    0xCD, 0x13, //             int 0x13
    0x5A, //                   pop dx
    0x72, 0x0C, //             jc stop             the disk's end
    0x83, 0x06, 0x2F, 0x7C, 0x08, // add word [packet + 8], 8
    0x83, 0x16, 0x31, 0x7C, 0x00, // adc word [packet + 10], 0
    0xEB, 0xE7, //             jmp next
    0xFA, //             stop: cli
    0xF4, //                   hlt
    0xEB, 0xFC, //             jmp stop
    // packet: its size, eight sectors, from 0000:7C00, to sector 8
    0x10, 0x00, 0x08, 0x00, 0x00, 0x7C, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
]);

/// Waits for the power button and powers off when it is pressed.
pub const OBEYS_POWER_BUTTON: [u8; SECTOR] = sector(&[
    0xBA, 0x02, 0x06, //       mov dx, 0x602
    0xB8, 0x00, 0x01, //       mov ax, 0x100       let the button be seen
    0xEF, //                   out dx, ax
    0xFB, //             wait: sti
    0xF4, //                   hlt                 until the clock ticks, 18 times a second
    0xBA, 0x00, 0x06, //       mov dx, 0x600
    0xED, //                   in ax, dx
    0xF6, 0xC4, 0x01, //       test ah, 1          pressed?
    0x74, 0xF5, //             jz wait
    0xBA, 0x04, 0x06, //       mov dx, 0x604
    0xB8, 0x00, 0x20, //       mov ax, 0x2000      soft off
    0xEF, //                   out dx, ax
    0xEB, 0xEC, //             jmp wait
]);

/// Powers off five seconds after the power button was pressed: a guest that needs its grace period.
pub const OBEYS_SLOWLY: [u8; SECTOR] = sector(&[
    0xBA, 0x02, 0x06, //       mov dx, 0x602
    0xB8, 0x00, 0x01, //       mov ax, 0x100       let the button be seen
    0xEF, //                   out dx, ax
    0xFB, //             wait: sti
    0xF4, //                   hlt                 until the clock ticks, 18 times a second
    0xBA, 0x00, 0x06, //       mov dx, 0x600
    0xED, //                   in ax, dx
    0xF6, 0xC4, 0x01, //       test ah, 1          pressed?
    0x74, 0xF5, //             jz wait
    0xB9, 0x5B, 0x00, //       mov cx, 91          ticks: five seconds
    0xF4, //             tidy: hlt
    0xE2, 0xFD, //             loop tidy
    0xBA, 0x04, 0x06, //       mov dx, 0x604
    0xB8, 0x00, 0x20, //       mov ax, 0x2000      soft off
    0xEF, //                   out dx, ax
    0xEB, 0xE6, //             jmp wait
]);

/// What [`SERIAL`] prints when it starts.
pub const SERIAL_BANNER: &str = "boot sector ready\r\n";

/// Prints [`SERIAL_BANNER`] on the first serial port and echoes what it receives, except three commands: `!` powers off, `%` resets, `#` reports a panic.
pub const SERIAL: [u8; SECTOR] = sector(&[
    0x31, 0xC0, //             xor ax, ax
    0x8E, 0xD8, //             mov ds, ax
    0xBA, 0xFA, 0x03, //       mov dx, 0x3FA
    0xB0, 0x01, //             mov al, 1           receive 16 bytes at a time
    0xEE, //                   out dx, al
    0xBE, 0x61, 0x7C, //       mov si, banner
    0xAC, //            print: lodsb
    0x84, 0xC0, //             test al, al
    0x74, 0x05, //             jz wait
    0xE8, 0x27, 0x00, //       call put
    0xEB, 0xF6, //             jmp print
    0xFB, //             wait: sti
    0xF4, //                   hlt                 until the clock ticks, 18 times a second
    0xB9, 0xD0, 0x07, // fresh: mov cx, 2000       looks before the next sleep
    0xBA, 0xFD, 0x03, // more: mov dx, 0x3FD
    0xEC, //                   in al, dx
    0xA8, 0x01, //             test al, 1          received something?
    0x75, 0x04, //             jnz got
    0xE2, 0xF6, //             loop more
    0xEB, 0xEF, //             jmp wait
    0xB2, 0xF8, //        got: mov dl, 0xF8
    0xEC, //                   in al, dx
    0x3C, 0x21, //             cmp al, '!'
    0x74, 0x1B, //             je poweroff
    0x3C, 0x25, //             cmp al, '%'
    0x74, 0x20, //             je reset
    0x3C, 0x23, //             cmp al, '#'
    0x74, 0x22, //             je panic
    0xE8, 0x02, 0x00, //       call put
    0xEB, 0xDD, //             jmp fresh
    0x50, //              put: push ax
    0xBA, 0xFD, 0x03, //       mov dx, 0x3FD
    0xEC, //             busy: in al, dx
    0xA8, 0x20, //             test al, 0x20       room to send?
    0x74, 0xFB, //             jz busy
    0x58, //                   pop ax
    0xB2, 0xF8, //             mov dl, 0xF8
    0xEE, //                   out dx, al
    0xC3, //                   ret
    0xBA, 0x04, 0x06, // poweroff: mov dx, 0x604
    0xB8, 0x00, 0x20, //       mov ax, 0x2000
    0xEF, //                   out dx, ax
    0xEB, 0xC4, //             jmp wait
    0xB0, 0xFE, //      reset: mov al, 0xFE
    0xE6, 0x64, //             out 0x64, al
    0xEB, 0xBE, //             jmp wait
    0xBA, 0x05, 0x05, // panic: mov dx, 0x505
    0xB0, 0x01, //             mov al, 1
    0xEE, //                   out dx, al
    0xEB, 0xB6, //             jmp wait
    // banner:
    b'b', b'o', b'o', b't', b' ', b's', b'e', b'c', b't', b'o', b'r', b' ', b'r', b'e', b'a', b'd', b'y', b'\r', b'\n',
    0,
]);

/// A domain that boots a sector, as libvirt's XML.
#[derive(Clone, Debug)]
pub struct BootSectorDomain<'a> {
    /// The domain's name.
    pub name: &'a str,
    /// The domain's UUID.
    pub uuid: &'a str,
    /// The disk, as [`write_disk`] made it.
    pub disk: &'a Path,
    /// `destroy` or `restart`.
    pub on_reboot: &'a str,
    /// Whether there is a panic device; a panic then destroys the domain.
    pub panic_device: bool,
}

impl BootSectorDomain<'_> {
    /// The domain's XML: emulated, q35, with a serial console on a pty and a VNC display without a port.
    pub fn xml(&self) -> String {
        let Self { name, uuid, on_reboot, .. } = self;
        let disk = self.disk.display();
        let panic = if self.panic_device { "<panic model='isa'/>" } else { "" };
        format!(
            "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='KiB'>8192</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>\
             <features><acpi/><apic/><tcg><tb-cache unit='MiB'>8</tb-cache></tcg></features>\
             <on_poweroff>destroy</on_poweroff><on_reboot>{on_reboot}</on_reboot><on_crash>destroy</on_crash>\
             <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{disk}'/>\
             <target dev='sda' bus='sata'/></disk><controller type='usb' model='none'/>\
             <serial type='pty'><target port='0'/></serial><console type='pty'><target type='serial' port='0'/></console>\
             <graphics type='vnc'><listen type='none'/></graphics><video><model type='vga' vram='1024'/></video>\
             <memballoon model='none'/>{panic}</devices></domain>"
        )
    }
}

/// Writes a disk that boots `sector`.
///
/// # Errors
/// When the file cannot be written.
pub fn write_disk(path: &Path, sector: &[u8; SECTOR]) -> Result<()> {
    // A megabyte, so that no firmware doubts that this is a disk.
    let mut disk = sector.to_vec();
    disk.resize(1 << 20, 0);
    fs::write(path, disk).with_context(|| format!("write {}", path.display()))
}

/// `code`, zeroes, and the mark that makes a sector bootable.
const fn sector(code: &[u8]) -> [u8; SECTOR] {
    assert!(code.len() <= SECTOR - 2, "a boot sector holds 510 bytes of code");
    let mut sector = [0; SECTOR];
    let mut index = 0;
    while index < code.len() {
        sector[index] = code[index];
        index += 1;
    }
    sector[SECTOR - 2] = 0x55;
    sector[SECTOR - 1] = 0xAA;
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_serial_guest_finds_its_banner_where_its_code_says() {
        let offset = usize::from(u16::from_le_bytes([SERIAL[11], SERIAL[12]])) - 0x7C00;
        assert_eq!(&SERIAL[offset..offset + SERIAL_BANNER.len()], SERIAL_BANNER.as_bytes());
        assert_eq!(SERIAL[offset + SERIAL_BANNER.len()], 0);
    }
}
