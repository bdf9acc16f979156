#!/usr/bin/env bash
# Makes the root folder of a Debian host with systemd, libvirt and QEMU, which the tests clone and boot (tests/src/host/).
# usage: xtask/host/root.sh OUTPUT_DIR   (root; needs debootstrap)
# Does nothing where it was made by this very script. Everything comes from the archive that the machine's own packages come from.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$1

BASE_PACKAGES=systemd,systemd-sysv,dbus,libpam-systemd,systemd-container,ca-certificates,procps,iproute2
# As xtask/host/install.sh has them, and what a host with them has beside them: polkit asks who may use libvirt's socket.
VIRT_PACKAGES=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils polkitd)

. /etc/os-release
. "$here/apt.sh"
say() { printf 'host root: %s\n' "$*"; }
die() { printf 'host root: %s\n' "$*" >&2; exit 1; }

PATH=$PATH:/usr/sbin:/sbin
inputs=$(cat "$here/root.sh" "$here/apt.sh" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$out/made-from" 2> /dev/null)" = "$inputs" ]; then say "$out is up to date"; exit 0; fi
[ "$(id -u)" = 0 ] || die "it needs root"
command -v debootstrap > /dev/null || die "debootstrap is not installed; run xtask/host/install.sh"
read -r uri key < <(debian_source "$VERSION_CODENAME") || true
[ -n "${uri:-}" ] || die "no apt source for $VERSION_CODENAME in /etc/apt"

say "making $out, about two minutes"
rm -rf "$out"
mkdir -p "$out"
log=$out/log
root=$out/root
debootstrap ${key:+--keyring="$key"} --variant=minbase --include="$BASE_PACKAGES" "$VERSION_CODENAME" "$root" "$uri" > "$log" 2>&1 ||
  { tail -n 30 "$log" >&2; die "debootstrap failed; its last messages are above"; }

if [ "$VERSION_CODENAME" = bookworm ]; then
  backports=$VERSION_CODENAME-backports
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$backports"
    [ -z "${key:-}" ] || printf 'Signed-By: %s\n' "$key"
  } > "$root/etc/apt/sources.list.d/backports.sources"
  [ -z "${key:-}" ] || [ -e "$root$key" ] || install -D -m 644 "$key" "$root$key"
  printf 'Package: src:libvirt src:qemu src:seabios\nPin: release n=%s\nPin-Priority: 990\n' "$backports" > "$root/etc/apt/preferences.d/virt"
fi
[ ! -d /etc/apt/apt.conf.d ] || find /etc/apt/apt.conf.d -name '*proxy*' -exec cp {} "$root/etc/apt/apt.conf.d/" \;
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
# Nothing is started in a folder.
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
in_root() { DEBIAN_FRONTEND=noninteractive chroot "$root" "$@" >> "$log" 2>&1 || { tail -n 30 "$log" >&2; die "$* failed; its last messages are above"; }; }
in_root apt-get update -qq
in_root apt-get install -y -qq --no-install-recommends "${VIRT_PACKAGES[@]}"
in_root apt-get clean
rm -rf "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf" "$root"/var/lib/apt/lists/*

# What only a container lacks: cgroups that libvirtd may write. machined still gives each guest its scope.
printf 'cgroup_controllers = [ ]\n' >> "$root/etc/libvirt/qemu.conf"
# Last: a root that was cut short is none.
printf '%s\n' "$inputs" > "$out/made-from"
