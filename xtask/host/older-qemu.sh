#!/usr/bin/env bash
# Unpacks the oldest QEMU that the machine's package sources have beside the one that is installed, for tests of an upgrade: the suite's own, where QEMU is from
# backports. Nothing is installed. usage: xtask/host/older-qemu.sh DIR
# Leaves DIR/root and DIR/version. Does nothing where both are there; says why and leaves nothing where there is no older one.
set -euo pipefail

PACKAGES=(qemu-system-x86 qemu-system-common qemu-system-data)

dir=$1
say() { printf 'older-qemu: %s\n' "$*"; }

installed=$(dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null) || { say "QEMU is not installed"; exit 0; }
oldest() { # usage: oldest PACKAGE   prints the lowest version that the sources offer
  local lowest='' version
  while read -r version; do
    if [ -z "$lowest" ] || dpkg --compare-versions "$version" lt "$lowest"; then lowest=$version; fi
  done < <(apt-cache madison "$1" | cut -d'|' -f2 | tr -d ' ')
  printf '%s' "$lowest"
}
version=$(oldest qemu-system-x86)
if [ -z "$version" ] || ! dpkg --compare-versions "$version" lt "$installed"; then
  say "no package source offers an older QEMU than $installed"
  exit 0
fi
if [ "$(cat "$dir/version" 2>/dev/null)" = "$version" ]; then
  exit 0
fi
rm -rf "$dir"
mkdir -p "$dir/archives"
cd "$dir/archives"
for package in "${PACKAGES[@]}"; do
  apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$package=$(oldest "$package")" ||
    { say "$package cannot be fetched"; exit 0; }
done
for file in *.deb; do dpkg-deb -x "$file" "$dir/root"; done
rm -rf "$dir/archives"
"$dir/root/usr/bin/qemu-system-x86_64" --version > /dev/null || { say "QEMU $version does not run here"; exit 0; }
echo "$version" > "$dir/version"
say "QEMU $version beside the installed $installed"
