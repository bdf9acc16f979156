# Runs a libvirtd of its own on standard input's command, for as long as standard input is open. Started by libvirtd.rs as the child of tini in a new mount
# and pid namespace: when this script ends, however it ends, the kernel ends the daemon and every guest with it.
# usage: libvirtd.sh DIR CACHE      Commands, each answered with "ok": start, stop SIGNAL, signal SIGNAL
set -eu
dir=$1 cache=$2

mount --make-rprivate /
mount -t proc proc /proc
mkdir -p "$dir"/run/lock "$dir"/etc "$dir"/lib "$dir"/log "$cache"
cp -a /etc/libvirt/. "$dir/etc/"
cp -a /var/lib/libvirt/. "$dir/lib/"
# No cgroups of our own here, and no network that another libvirtd on this host may have started.
printf '\ncgroup_controllers = []\n' >> "$dir/etc/qemu.conf"
# Nor any guest of the host's own libvirtd, such as the demo's.
rm -rf "$dir/etc/qemu/networks/autostart" "$dir/etc/qemu/autostart" "$dir"/etc/qemu/*.xml
# libvirt resolves the host's name at every start of a guest; where it cannot, each waits five seconds for DNS.
{ cat /etc/hosts; printf '127.0.0.1 %s\n' "$(hostname)"; } > "$dir/hosts"

mount --bind "$dir/hosts" /etc/hosts
mount --bind "$dir/etc" /etc/libvirt
mount --bind "$dir/lib" /var/lib/libvirt
mount --bind "$dir/log" /var/log
mkdir -p /var/log/libvirt /var/cache/libvirt
mount --bind "$cache" /var/cache/libvirt
mount --bind "$dir/run" /run
# Where QEMU's user may not open /dev/kvm (its group has another number here), libvirt asks QEMU anew what it can do at each call, for a second and more.
[ ! -e /dev/kvm ] || printf 'group = "+%s"\n' "$(stat -c %g /dev/kvm)" >> "$dir/etc/qemu.conf"
virtlogd -d

pid=
while read -r command signal; do
  case $command in
    start)
      libvirtd >> "$dir/libvirtd.log" 2>&1 < /dev/null &
      pid=$!
      ;;
    stop)
      kill "-$signal" "$pid"
      wait "$pid" || true # its status says by which signal it ended, as it was asked to
      ;;
    signal) kill "-$signal" "$pid" ;;
    *) printf 'unknown command %s\n' "$command" ;;
  esac
  printf 'ok\n'
done
