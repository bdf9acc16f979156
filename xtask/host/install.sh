#!/usr/bin/env bash
# Installs what the project needs from Debian: libvirt, QEMU, kubectl, the tools that build and test it, and what the tests' cluster nodes run. Does nothing where all of it is there.
# usage: xtask/host/install.sh   (root, Debian 12 or newer)
set -euo pipefail

# libvirt and QEMU come from one suite, or the client library and the daemon disagree. Backports on Debian 12: 11.3 and 10.0.
VIRT_PACKAGES=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients libvirt-dev libvirt0 qemu-system-x86 qemu-utils)
TOOL_PACKAGES=(tini libxml2-utils pkg-config gcc libc6-dev make curl ca-certificates strace socat iproute2 openssl
  containerd runc containernetworking-plugins nftables buildah docker-registry
  dpkg-dev lintian help2man debootstrap systemd-container
  busybox-static syslinux syslinux-common mtools dosfstools e2fsprogs cpio gzip xz-utils zstd kmod)

. /etc/os-release
. "$(dirname "${BASH_SOURCE[0]}")/apt.sh"
say() { printf 'install: %s\n' "$*"; }
die() { printf 'install: %s\n' "$*" >&2; exit 1; }

missing() {
  for p in "${VIRT_PACKAGES[@]}" "${TOOL_PACKAGES[@]}"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || printf '%s\n' "$p"
  done
}

# kubectl: the machine's own if it has one. Debian 12's is 1.20, too old for the API that we serve; the next release's needs nothing newer than Debian 12's libc.
install_kubectl() {
  local dir
  dir=$(mktemp -d)
  private_apt "$dir/apt" trixie "$(dpkg --print-architecture)" || return 1
  (cd "$dir" && apt-get "${PRIVATE_APT[@]}" download kubectl && dpkg -i kubectl_*.deb > /dev/null) || return 1
  rm -rf "$dir"
}

# udev gives /dev/kvm to the group kvm; a host without udev has nobody who does. Left as it is, QEMU's user cannot open it, and libvirt, which
# has found KVM as root, asks QEMU anew what it can do before each look at a device: a definition takes 40 s instead of 2 ms.
open_kvm_to_group() {
  [ -c /dev/kvm ] && [ "$(id -u)" = 0 ] && getent group kvm >/dev/null || return 0
  [ "$(stat -c %G /dev/kvm)" != kvm ] && [ ! -e /run/udev/control ] || return 0
  say "giving /dev/kvm to the group kvm, as udev would"
  chgrp kvm /dev/kvm
}

todo=$(missing)
open_kvm_to_group
if [ -z "$todo" ] && command -v kubectl > /dev/null; then say "everything is installed"; exit 0; fi
[ "$(id -u)" = 0 ] || die "not installed: $(echo $todo); run as root, or install these by hand"
command -v apt-get >/dev/null || die "no apt-get here; install libvirt >= 11, QEMU >= 8 and: ${TOOL_PACKAGES[*]}"
if ! command -v kubectl > /dev/null; then
  say "installing: kubectl"
  install_kubectl || die "kubectl cannot be installed from Debian here; install one of version 1.28 or newer (https://kubernetes.io/docs/tasks/tools/)"
  [ -n "$todo" ] || exit 0
fi
say "installing: $(echo $todo)"

export DEBIAN_FRONTEND=noninteractive
scratch=$(mktemp -d)
preferences=()
if [ "${ID:-}" = debian ] && [ "${VERSION_CODENAME:-}" = bookworm ]; then
  backports=$VERSION_CODENAME-backports
  if [ -z "$(debian_source "$backports")" ]; then
    read -r uri key < <(debian_source "$VERSION_CODENAME") || true
    [ -n "${uri:-}" ] || die "no apt source for $VERSION_CODENAME found in /etc/apt; add one, so that $backports can be derived from it"
    {
      printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$backports"
      [ -z "${key:-}" ] || printf 'Signed-By: %s\n' "$key"
    } > /etc/apt/sources.list.d/ovm-backports.sources
  fi
  # Only these come from backports. `apt-get -t` would take every library that they need from there too, systemd among them.
  printf 'Package: src:libvirt src:qemu src:seabios\nPin: release n=%s\nPin-Priority: 990\n' "$backports" > "$scratch/preferences"
  preferences=(-o "Dir::Etc::preferences=$scratch/preferences")
fi

# A package's start script must not start a daemon where there is no init to own it.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -d /run/systemd/system ] && [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; made_policy=1
fi
trap 'rm -rf "$scratch"; [ -z "$made_policy" ] || rm -f "$policy"' EXIT

apt-get update -qq
apt-get "${preferences[@]}" install -y -qq --no-install-recommends "${VIRT_PACKAGES[@]}" "${TOOL_PACKAGES[@]}" > "$scratch/log" 2>&1 ||
  { cat "$scratch/log" >&2; die "apt-get could not install them; its messages are above"; }
todo=$(missing)
[ -z "$todo" ] || die "still missing after apt-get install: $(echo $todo)"
say "libvirt $(libvirtd --version | grep -oE '[0-9.]+$'), QEMU $(qemu-system-x86_64 --version | grep -oE '[0-9]+\.[0-9.]+' | head -n 1)"
open_kvm_to_group
