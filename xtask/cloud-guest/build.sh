#!/usr/bin/env bash
# Builds the cloud guest: a bootable disk with Debian's cloud-init package and what it needs, without systemd, for tests of seeds.
# usage: xtask/cloud-guest/build.sh [OUTPUT_DIR]    (default target/cloud-guest)
# Leaves OUTPUT_DIR/disk.img: a FAT file system with kernel and initrd, which SeaBIOS starts, and behind it an ext4 file system, the guest's root.
# Does nothing where the disk was built from these very scripts. `FORCE=1` fetches and builds anew.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here/../../target/cloud-guest}

# What cloud-init runs or imports, and what every Debian has without anything depending on it.
PACKAGES=(cloud-init openssh-client base-files base-passwd bash coreutils dash sed grep util-linux mount hostname findutils login)
MODULES=(virtio_pci virtio_blk virtio_rng ahci sd_mod sr_mod isofs vfat nls_cp437 nls_ascii nls_utf8 loop crc32c_generic ext4)
BOOT_MIB=16
ROOT_MIB=220

guest='cloud guest'
. "$here/../host/guest.sh"
begin_build apt-get dpkg-deb depmod cpio mcopy syslinux mkfs.vfat mke2fs

# 1. Packages with all that they depend on, for a machine that has nothing: kept, so that a change of our scripts needs no network.
if ! ls "$packages"/cloud-init_*.deb "$packages"/linux-image-*.deb > /dev/null 2>&1; then
  begin_fetch
  say "fetching cloud-init and what it needs for $ARCHITECTURE"
  apt-get "${PRIVATE_APT[@]}" --no-install-recommends -y --download-only -o Debug::NoLocking=1 install "${PACKAGES[@]}"
  (cd "$work/apt/cache/archives" && apt-get "${PRIVATE_APT[@]}" download "$kernel" busybox-static)
  rm -rf "$packages"
  mkdir "$packages"
  mv "$work"/apt/cache/archives/*.deb "$packages/"
fi

# 2. The root: every package's files. No package's scripts are run: nothing of it needs them but the accounts.
root=$work/root
mkdir -p "$root"/usr/{bin,sbin,lib}
ln -s usr/bin "$root/bin"
ln -s usr/sbin "$root/sbin"
ln -s usr/lib "$root/lib"
for package in "$packages"/*.deb; do
  case ${package##*/} in
    linux-image-* | busybox-static_*) ;;
    *) dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root" -f - ;;
  esac
done
rm -rf "$root"/usr/share/{doc,man,locale,i18n,perl} "$root"/usr/lib/i386-linux-gnu/{perl,libperl}*
ln -sf dash "$root/usr/bin/sh"
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
sed 's/^\([^:]*\):.*/\1:*:19000:0:99999:7:::/' "$root/etc/passwd" > "$root/etc/shadow"
sed 's/^\([^:]*\):.*/\1:*::/' "$root/etc/group" > "$root/etc/gshadow"
chmod 600 "$root"/etc/{shadow,gshadow}
echo localhost > "$root/etc/hostname"
echo '127.0.0.1 localhost' > "$root/etc/hosts"
install -m 644 "$here/cloud.cfg" "$root/etc/cloud/cloud.cfg.d/99-guest.cfg"
install -m 755 "$here/cloud-boot" "$root/sbin/cloud-boot"
# Python's modules are compiled here where the host's Python is the guest's: in the guest that takes half a minute.
if /usr/bin/python3 --version 2> /dev/null | grep -q '^Python 3\.11\.'; then
  /usr/bin/python3 -m compileall -q "$root"/usr/lib/python3 "$root"/usr/lib/python3.11 > /dev/null || true
fi

# 3. The initrd: busybox, the modules in the order in which they are loaded, and our init.
unpack_kernel
initrd=$work/initrd
mkdir -p "$initrd"/{bin,modules,proc,dev,sys,root}
install -m 755 "$work/busybox/bin/busybox" "$initrd/bin/busybox"
sed "s/@ROOT_OFFSET@/$((BOOT_MIB * 1048576))/" "$here/init" > "$initrd/init"
chmod 755 "$initrd/init"
: > "$initrd/modules/order"
for module in "${MODULES[@]}"; do
  files=$(with_dependencies "$module")
  for file in $files; do
    name=${file##*/}
    [ ! -e "$initrd/modules/$name" ] || continue
    cp "$modules/$file" "$initrd/modules/$name"
    echo "$name" >> "$initrd/modules/order"
  done
done
(cd "$initrd" && find . -print0 | LC_ALL=C sort -z | cpio --quiet -0 -o -H newc -R 0:0) | gzip -9n > "$work/initrd.gz"

# 4. The disk.
cp "$work/kernel/boot/vmlinuz-$release" "$work/vmlinuz"
printf 'DEFAULT linux\nSERIAL 0 115200\nLABEL linux\n  KERNEL vmlinuz\n  APPEND initrd=initrd.gz console=ttyS0 quiet mitigations=off\n' > "$work/syslinux.cfg"
truncate -s "${BOOT_MIB}M" "$work/disk.img"
mkfs.vfat -F 16 -n OVMCLOUD "$work/disk.img" > /dev/null
syslinux --install "$work/disk.img"
mcopy -i "$work/disk.img" "$work"/{vmlinuz,initrd.gz,syslinux.cfg} ::
mke2fs -q -t ext4 -O ^has_journal -d "$root" "$work/root.ext4" "${ROOT_MIB}M"
cat "$work/root.ext4" >> "$work/disk.img"

mv "$work/disk.img" "$out/"
end_build
say "built $out/disk.img: Linux $release, $(basename "$packages"/cloud-init_*.deb .deb), $(( $(stat -c %s "$out/disk.img") / 1048576 )) MiB"
