# Sourced by scripts that need one more Debian suite than the machine has: says where the machine gets its own packages from.
# shellcheck shell=bash

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
