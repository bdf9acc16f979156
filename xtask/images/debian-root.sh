#!/usr/bin/env bash
# Makes the file system that the images take from Debian: Debian's libvirt0 and qemu-img with what they need, in the versions that this host has, and the authorities by which
# registries are known. No shell, no package manager. usage: xtask/images/debian-root.sh DIR    (root, Debian 12 or newer, after xtask/host/install.sh)
# Leaves DIR/root (the file system) and DIR/packages.tsv (package, version, architecture, source). Does nothing where both are there for these very versions.
set -euo pipefail

# What is asked for; apt adds what these depend on.
PACKAGES=(libvirt0 qemu-utils)
# Of qemu-utils only this is used.
PROGRAMS=(qemu-img)

dir=$1
say() { printf 'images: %s\n' "$*"; }
die() { printf 'images: %s\n' "$*" >&2; exit 1; }

. /etc/os-release
wanted=()
for p in "${PACKAGES[@]}"; do
  version=$(dpkg-query -W -f '${Version}' "$p" 2>/dev/null) || die "$p is not installed; run xtask/host/install.sh"
  wanted+=("$p=$version")
done
inputs=$(printf '%s\n' "$ID $VERSION_ID" "${wanted[@]}" "$(dpkg --print-architecture)" | cat - "${BASH_SOURCE[0]}" | sha256sum | cut -d' ' -f1)
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
if [ -d "$dir/root" ] && [ "$(cat "$dir/inputs.sha256" 2>/dev/null)" = "$inputs" ]; then
  say "the file system is up to date"
  exit 0
fi
rm -rf "$dir/root" "$dir/inputs.sha256" "$dir/packages.tsv"
work=$(mktemp -d "$dir/build.XXXXXX")
trap 'rm -rf "$work"' EXIT

# 1. Which packages: as if nothing were installed, from the machine's own sources. libvirt and QEMU come from one suite, as on the host.
mkdir -p "$work/archives/partial" "$dir/archives/partial"
: > "$work/status"
printf 'Package: src:libvirt src:qemu\nPin: release n=%s-backports\nPin-Priority: 990\n' "${VERSION_CODENAME:-}" > "$work/preferences"
apt=(-qq -y -o "Dir::State::status=$work/status" -o "Dir::Etc::preferences=$work/preferences" -o "Dir::Cache::archives=$dir/archives"
  -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Acquire::Retries=3)
fetch() { apt-get "${apt[@]}" --download-only install "${wanted[@]}" && (cd "$dir/archives" && apt-get "${apt[@]}" download base-files ca-certificates); }
say "fetching ${wanted[*]} and what they depend on"
if ! fetch > "$work/log" 2>&1; then
  apt-get update -qq
  fetch > "$work/log" 2>&1 ||
    { cat "$work/log" >&2; die "${wanted[*]} cannot be fetched; if the archive has newer ones, upgrade this host's first: the agent is built against its libvirt"; }
fi

# 2. Their files, without their scripts: libraries need none.
root=$work/root
mkdir -p "$root"/usr/{bin,lib,lib64,sbin} "$root"/{etc/ovm/registries.d,var/lib/dpkg/status.d,run,tmp,host/proc,host/lock,proc,sys,dev} "$root/var/lib/ovm"
for d in bin lib lib64 sbin; do ln -s "usr/$d" "$root/$d"; done
ln -s ../run "$root/var/run"
mapfile -t names < <(apt-get "${apt[@]}" -s install "${wanted[@]}" | awk '$1 == "Inst" { print $2 }' | LC_ALL=C sort)
[ "${#names[@]}" -gt 0 ] || die "apt names no packages for ${wanted[*]}"
packaged() { # usage: packaged NAME   prints the newest fetched file of a package
  find "$dir/archives" -maxdepth 1 -name "$1_*.deb" -printf '%T@ %p\n' | sort -n | tail -n 1 | cut -d' ' -f2-
}
for name in base-files ca-certificates "${names[@]}"; do
  file=$(packaged "$name")
  [ -n "$file" ] || die "apt did not fetch $name"
  # tar, because dpkg-deb -x would put a directory where /lib points to.
  if [ "$name" = base-files ]; then
    dpkg-deb --fsys-tarfile "$file" | tar -x --keep-directory-symlink --no-same-owner -C "$root" ./usr/lib/os-release
  else
    dpkg-deb --fsys-tarfile "$file" | tar -x --keep-directory-symlink --no-same-owner -C "$root"
  fi
  # Where scanners look for what is in an image without dpkg.
  dpkg-deb -f "$file" > "$root/var/lib/dpkg/status.d/$name"
  dpkg-deb --show --showformat '${Package}\t${Version}\t${Architecture}\t${source:Package}\n' "$file" >> "$work/packages.tsv"
done
ln -s ../usr/lib/os-release "$root/etc/os-release"
# As update-ca-certificates would: all authorities in one file. The package's dependencies are only for its scripts.
mkdir -p "$root/etc/ssl/certs"
cat "$root"/usr/share/ca-certificates/mozilla/*.crt > "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root/usr/share/ca-certificates"
printf 'root:x:0:0:root:/:/nonexistent\n' > "$root/etc/passwd"
printf 'root:x:0:\n' > "$root/etc/group"

# 3. What nobody reads in a container. Licences stay.
find "$root/usr/bin" "$root/usr/sbin" -mindepth 1 -type f,l | while read -r file; do
  case " ${PROGRAMS[*]} " in *" ${file##*/} "*) ;; *) rm -f "$file" ;; esac
done
find "$root/usr/share/doc" -type f,l ! -name copyright -delete
rm -rf "$root"/usr/share/{man,locale,info,lintian,bug,bash-completion,augeas,apport,polkit-1} "$root"/etc/{init.d,default,cron.d,logrotate.d} "$root/usr/lib/systemd"
find "$root" -depth -type d -empty ! -path "$root/proc" ! -path "$root/sys" ! -path "$root/dev" ! -path "$root/tmp" ! -path "$root/run" \
  ! -path "$root/host/*" ! -path "$root/var/lib/ovm" ! -path "$root/etc/ovm/registries.d" -delete
find "$root" -perm /6000 -type f -exec chmod a-s {} +
chmod 1777 "$root/tmp"
chroot "$root" /usr/bin/qemu-img --version > "$work/version" || die "qemu-img does not run in the image's file system"

mv "$root" "$dir/root"
mv "$work/packages.tsv" "$dir/packages.tsv"
echo "$inputs" > "$dir/inputs.sha256"
say "the file system: $(head -n 1 "$work/version"), libvirt0 ${wanted[0]#*=}, $(du -sm "$dir/root" | cut -f1) MB"
