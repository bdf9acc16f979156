#!/usr/bin/env bash
# Makes the image localhost/pause:1, which every pod of the tests' clusters has: upstream's own would have to be pulled.
# usage: xtask/kube/pause-image.sh FILE   (an archive that `ctr images import` and `docker load` read)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/root" "$work/image"
gcc -static -O2 -o "$work/root/pause" "$here/pause.c"
tar -C "$work/root" --owner=0 --group=0 --mtime=@0 -cf "$work/image/layer.tar" pause
layer=$(sha256sum "$work/image/layer.tar" | cut -d' ' -f1)
printf '{"architecture":"%s","os":"linux","config":{"Entrypoint":["/pause"],"User":"65535:65535"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$(dpkg --print-architecture)" "$layer" > "$work/image/config.json"
printf '[{"Config":"config.json","RepoTags":["localhost/pause:1"],"Layers":["layer.tar"]}]' > "$work/image/manifest.json"
tar -C "$work/image" -cf "$work/pause.tar" manifest.json config.json layer.tar
mv "$work/pause.tar" "$out"
