# Sourced by build scripts: a private apt that fetches packages of another suite or architecture, and leaves the host's apt and dpkg alone.
# shellcheck shell=bash disable=SC1091

. "$(dirname "${BASH_SOURCE[0]}")/../host/debian-source.sh"

# usage: private_apt DIR SUITE ARCHITECTURE   makes DIR a private apt over SUITE of the archive that the machine's own packages come from, with fresh lists.
# Sets PRIVATE_APT to the options that apt-get and apt-cache need.
private_apt() {
  local dir=$1 suite=$2 architecture=$3 codename uri key
  codename=$(. /etc/os-release && printf %s "${VERSION_CODENAME:-}")
  read -r uri key < <(debian_source "$codename") || true
  [ -n "${uri:-}" ] || { printf 'no apt source for %s in /etc/apt: cannot tell where to fetch %s packages of %s from\n' "$codename" "$architecture" "$suite" >&2; return 1; }
  mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial"
  : > "$dir/state/status"
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$suite"
    [ -z "${key:-}" ] || printf 'Signed-By: %s\n' "$key"
  } > "$dir/$suite.sources"
  PRIVATE_APT=(-qq -o "Dir::State=$dir/state" -o "Dir::State::status=$dir/state/status" -o "Dir::Cache=$dir/cache"
    -o "Dir::Etc::sourcelist=$dir/$suite.sources" -o Dir::Etc::sourceparts=/dev/null
    -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
    -o Acquire::Languages=none -o APT::Sandbox::User=root -o Acquire::Retries=3)
  apt-get "${PRIVATE_APT[@]}" update
}
