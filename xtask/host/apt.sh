# Sourced by scripts that need one more Debian suite, or another architecture, than the machine has. The archive is the one that the machine already uses.
# shellcheck shell=bash disable=SC1091

# usage: debian_source SUITE   prints "URI KEYRING" of the first archive in apt's own sources that serves SUITE (KEYRING may be empty).
# Reads both forms of apt's sources.
debian_source() {
  local files=()
  for f in /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.list /etc/apt/sources.list; do
    [ ! -f "$f" ] || files+=("$f")
  done
  [ "${#files[@]}" -gt 0 ] || return 0
  awk -v suite="$1" '
    function done() { if (!found && hit && uri != "") { print uri, key; found = 1; exit }; uri = ""; key = ""; hit = 0 }
    FNR == 1 || /^$/ { done() }
    /^URIs:/ { uri = $2 }
    /^Signed-By:/ { key = $2 }
    /^Suites:/ { for (i = 2; i <= NF; i++) if ($i == suite) hit = 1 }
    /^deb / {
      line = $0; signed = ""
      if (match(line, /signed-by=[^] ]+/)) signed = substr(line, RSTART + 10, RLENGTH - 10)
      sub(/\[[^]]*\] */, "", line); split(line, f, " ")
      if (f[3] == suite) { print f[2], signed; found = 1; exit }
    }
    END { done() }
  ' "${files[@]}"
}

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
