#!/usr/bin/env bash
# Builds the demo guest: a bootable disk with a Debian kernel, busybox and the init of xtask/guest/root, small enough for 64M of memory.
# usage: xtask/guest/build.sh [OUTPUT_DIR]    (default target/guest)
# Leaves OUTPUT_DIR/disk.img (FAT, boots with SeaBIOS from virtio, SATA and IDE), and vmlinuz and initrd.gz, which the KVM probe boots.
# Does nothing where the disk was built from these very scripts. `FORCE=1` fetches and builds anew.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here/../../target/guest}

# Drivers of the devices that a VirtualMachine can have. Their dependencies come along.
MODULES=(virtio_pci virtio_blk virtio_net virtio_rng virtio_balloon virtio_scsi ahci ata_piix ata_generic sd_mod sr_mod floppy
  isofs vfat nls_cp437 nls_ascii nls_utf8 nls_iso8859-1 button evdev i6300esb pvpanic-mmio e1000 af_packet qemu_fw_cfg)
# Room for the kernel, the initrd and what the guest notes down: two megabytes more than today's content.
DISK_SIZE_MIB=12
# Every time stamp in the image, so that equal inputs give equal bytes.
export SOURCE_DATE_EPOCH=1700000000

guest=guest
. "$here/../host/guest.sh"
begin_build apt-get dpkg-deb depmod cpio mcopy syslinux mkfs.vfat

# 1. Packages, for another architecture than the host's: kept, so that a change of our scripts needs no network.
if ! ls "$packages"/linux-image-*.deb "$packages"/busybox-static_*.deb > /dev/null 2>&1; then
  begin_fetch
  say "fetching $kernel and busybox-static for $ARCHITECTURE"
  rm -rf "$packages"
  mkdir -p "$work/packages"
  (cd "$work/packages" && apt-get "${PRIVATE_APT[@]}" download "$kernel" busybox-static)
  mv "$work/packages" "$packages"
fi

# 2. The initrd: busybox, the modules and our files. It is the whole system; nothing is mounted over it.
unpack_kernel
root=$work/root
mkdir -p "$root"/{bin,sbin,etc,proc,sys,dev,run,tmp,root,mnt,boot,lib/modules/"$release"}
install -m 755 "$work/busybox/bin/busybox" "$root/bin/busybox"
cp -R "$here/root/." "$root/"
find "$root" -type f -path '*/etc/*' ! -path '*/acpi/*' -exec chmod 644 {} +
chmod 600 "$root/etc/shadow"
chmod 755 "$root/init" "$root"/sbin/* "$root"/etc/acpi/PWRF/* "$root"/usr/share/udhcpc/*
ln -s /proc/mounts "$root/etc/mtab"
ln -s ../bin "$root/usr/bin"
ln -s ../sbin "$root/usr/sbin"

for module in "${MODULES[@]}"; do
  files=$(with_dependencies "$module")
  for file in $files; do
    install -D -m 644 "$modules/$file" "$root/lib/modules/$release/$file"
  done
done
cp "$modules/modules.order" "$modules/modules.builtin" "$root/lib/modules/$release/"
depmod -b "$root" "$release" 2> /dev/null
rm -f "$root/lib/modules/$release"/modules.{order,builtin}* "$root/lib/modules/$release"/modules.{devname,softdep,symbols}* "$root/lib/modules/$release"/modules.*.bin
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$root" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc -R 0:0 --reproducible) | gzip -9n > "$work/initrd.gz"

# 3. The disk: one FAT file system without a partition table, whose boot sector is syslinux.
cp "$work/kernel/boot/vmlinuz-$release" "$work/vmlinuz"
cp "$here/syslinux.cfg" "$work/syslinux.cfg"
touch -d "@$SOURCE_DATE_EPOCH" "$work"/{vmlinuz,initrd.gz,syslinux.cfg}
truncate -s "${DISK_SIZE_MIB}M" "$work/disk.img"
mkfs.vfat -F 16 -n OVMGUEST -i 0b0e0e0d --invariant "$work/disk.img" > /dev/null
syslinux --install "$work/disk.img"
TZ=UTC mcopy -m -i "$work/disk.img" "$work"/{vmlinuz,initrd.gz,syslinux.cfg} ::

mv "$work/disk.img" "$work/vmlinuz" "$work/initrd.gz" "$out/"
end_build
say "built $out/disk.img: Linux $release, $(( $(stat -c %s "$out/disk.img") / 1048576 )) MiB (kernel $(( $(stat -c %s "$out/vmlinuz") / 1024 )) KiB, initrd $(( $(stat -c %s "$out/initrd.gz") / 1024 )) KiB)"
