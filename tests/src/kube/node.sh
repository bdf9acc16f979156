# One node of a test's cluster, as pid 1's child in namespaces of its own (mount, pid, uts, network): libvirtd, containerd, kube-proxy and kubelet.
# Started by node.rs, which has written the files that are named here, and ends it by ending the namespaces.
# usage: node.sh DIRECTORY NAME ADDRESS KUBE_ASSETS CAPABILITY_CACHE IMAGE...
set -eu
dir=$1 name=$2 address=$3 assets=$4 cache=$5
shift 5

# The cable comes from outside.
touch "$dir/has-network"
until [ -e "$dir/is-plugged-in" ]; do sleep 0.05; done

mount --make-rprivate /
mount -t proc proc /proc
mkdir -p "$dir"/run/lock "$dir"/run/libvirt "$dir"/log/libvirt/qemu "$dir"/lib/libvirt "$dir"/lib/cni "$dir"/lib/ovm "$dir"/etc "$dir"/containerd "$dir"/kubelet "$cache"
cp -a /etc/libvirt/. "$dir/etc/"
cp -a /var/lib/libvirt/. "$dir/lib/libvirt/"
# As in a private libvirtd: no cgroups, no network and no guest of the host's.
printf '\ncgroup_controllers = []\n' >> "$dir/etc/qemu.conf"
[ ! -e /dev/kvm ] || printf 'group = "+%s"\n' "$(stat -c %g /dev/kvm)" >> "$dir/etc/qemu.conf"
rm -rf "$dir/etc/qemu/networks/autostart" "$dir/etc/qemu/autostart" "$dir"/etc/qemu/*.xml
printf '127.0.0.1 localhost %s\n' "$name" > "$dir/hosts"
mkdir -p /var/lib/cni /var/lib/ovm /var/cache/libvirt
mount --bind "$dir/hosts" /etc/hosts
mount --bind "$dir/etc" /etc/libvirt
for folder in libvirt cni ovm; do mount --bind "$dir/lib/$folder" "/var/lib/$folder"; done
mount --bind "$dir/log" /var/log
mount --bind "$cache" /var/cache/libvirt
mount --bind "$dir/run" /run
hostname "$name"
ip link set lo up

# Debian's own containerd, with its paths below our directory. Without CAP_SYS_RESOURCE nobody may lower an OOM score.
containerd config default | sed \
  -e 's#sandbox_image = .*#sandbox_image = "localhost/pause:1"#' \
  -e 's#bin_dir = .*#bin_dir = "/usr/lib/cni"#' \
  -e "s#conf_dir = \"/etc/cni/net.d\"#conf_dir = \"$dir/cni\"#" \
  -e 's#restrict_oom_score_adj = false#restrict_oom_score_adj = true#' \
  -e "s#^root = .*#root = \"$dir/containerd\"#" \
  -e 's#^state = .*#state = "/run/containerd"#' > "$dir/containerd.toml"
containerd -c "$dir/containerd.toml" > "$dir/log/containerd.log" 2>&1 &
virtlogd -d
libvirtd -d > "$dir/log/libvirtd.log" 2>&1
until ctr version > /dev/null 2>&1; do sleep 0.1; done
for image in "$assets/pause.tar" "$@"; do ctr -n k8s.io images import "$image"; done
"$assets/kube-proxy" --config "$dir/proxy.yaml" > "$dir/log/kube-proxy.log" 2>&1 &
"$assets/kubelet" --config "$dir/kubelet.yaml" --kubeconfig "$dir/kubeconfig" --hostname-override "$name" --node-ip "$address" \
  --root-dir "$dir/kubelet" > "$dir/log/kubelet.log" 2>&1 &
echo $! > "$dir/kubelet.pid"
wait
