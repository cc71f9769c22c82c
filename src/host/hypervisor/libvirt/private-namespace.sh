#!/bin/sh
# private-namespace.sh STATE CACHE PROGRAM ARGS...
# Runs in a new mount namespace, as a slave of the old one. Covers every folder libvirt uses with folders of ours, and the
# message bus, so that the program neither sees nor touches a libvirt (or a systemd-machined) that is on the machine.
set -eu
state=$1 cache=$2
shift 2
cover() { [ -d "$2" ] || mkdir -p "$2"; mount --bind "$1" "$2"; }
cover "$state/etc" /etc/libvirt
cover "$state/run" /run/libvirt
cover "$state/lib" /var/lib/libvirt
cover "$cache" /var/cache/libvirt
cover "$state/log" /var/log/libvirt
[ ! -d /run/dbus ] || mount --bind "$state/empty" /run/dbus
# libvirt's QEMU driver will not start without the account it was built to run guests under, though ours run as root. The
# package libvirt-daemon-system makes that account, and starts a libvirt of the machine's own; here it is only shown.
show_account() {
  grep -q '^libvirt-qemu:' "$1" && return
  { cat "$1" && printf '%s\n' "$3"; } >"$2"
  mount --bind "$2" "$1"
}
show_account /etc/passwd "$state/passwd" 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin'
show_account /etc/group "$state/group" 'libvirt-qemu:x:64055:'
# libvirt 9 frees memory that held a key without overwriting it. The C library overwrites every freed block when asked to,
# but not those it keeps in its per-thread cache, so that cache is off.
export GLIBC_TUNABLES=glibc.malloc.perturb=165:glibc.malloc.tcache_count=0
exec "$@"
