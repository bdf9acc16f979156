# Sourced by the scripts that build guests: what they have in common. They set `here`, their own folder, `out`, where the guest goes, and `guest`, its name in messages.
# shellcheck shell=bash disable=SC2034,SC2154

# The last Debian with a kernel for i386, which boots in 40 MiB, and soonest under emulation; every amd64 kernel of Debian needs 96.
SUITE=bookworm
ARCHITECTURE=i386

say() { printf '%s: %s\n' "$guest" "$*"; }
die() { printf '%s: %s\n' "$guest" "$*" >&2; exit 1; }

# usage: begin_build TOOL...   Ends the script where the disk was built from these very scripts. Else sets `work`, a directory that goes with the script, `packages`, a
# directory that stays, and makes `out` absolute. `FORCE=1` fetches and builds anew.
begin_build() {
  local tool
  PATH=$PATH:/usr/sbin:/sbin
  for tool in "$@"; do
    command -v "$tool" > /dev/null || die "$tool is not installed; run xtask/host/install.sh"
  done
  mkdir -p "$out"
  out=$(cd "$out" && pwd)
  inputs=$(cd "$here" && find . ../host/guest.sh ../host/apt.sh -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1)
  if [ -z "${FORCE:-}" ] && [ -s "$out/disk.img" ] && [ "$(cat "$out/inputs.sha256" 2>/dev/null)" = "$inputs" ]; then
    say "$out/disk.img is up to date"
    exit 0
  fi
  rm -f "$out/inputs.sha256"
  work=$(mktemp -d "$out/build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  packages=$out/packages
  [ -z "${FORCE:-}" ] || rm -rf "$packages"
}

# Notes that what is in `out` was built from these scripts.
end_build() { printf '%s\n' "$inputs" > "$out/inputs.sha256"; }

# Prepares to fetch: sets PRIVATE_APT, and `kernel`, the name of the kernel's package.
begin_fetch() {
  . "$here/../host/apt.sh"
  private_apt "$work/apt" "$SUITE" "$ARCHITECTURE"
  kernel=$(apt-cache "${PRIVATE_APT[@]}" depends linux-image-686 | awk '/Depends: linux-image-/ { print $2; exit }')
  [ -n "$kernel" ] || die "no linux-image-686 in $SUITE for $ARCHITECTURE"
}

# Unpacks kernel and busybox into `work`; sets `release`, the kernel's, and `modules`, the folder of its modules.
unpack_kernel() {
  mkdir -p "$work/kernel" "$work/busybox"
  dpkg-deb -x "$packages"/linux-image-*.deb "$work/kernel"
  dpkg-deb -x "$packages"/busybox-static_*.deb "$work/busybox"
  release=$(basename "$work"/kernel/lib/modules/*)
  modules=$work/kernel/lib/modules/$release
  depmod -b "$work/kernel" "$release"
}

# usage: with_dependencies MODULE   prints a module's file and, before it, the files that it needs, relative to the modules' folder; nothing where it is built in.
with_dependencies() {
  local name=${1//-/_}
  awk -F'[: ]+' -v want="$name" '
    { name = $1; sub(/.*\//, "", name); sub(/\.ko.*/, "", name); gsub(/-/, "_", name) }
    name == want { for (i = NF; i >= 1; i--) if ($i != "") print $i; found = 1 }
    END { exit !found }
  ' "$modules/modules.dep" || grep -q "/${1//_/[_-]}\.ko" "$modules/modules.builtin" || die "kernel $release has no module $1"
}
