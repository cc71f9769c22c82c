#!/bin/sh
# The first process of a second kernel (see second-kernel.ts). The host's whole file system is there, under an overlay in
# memory, so that nothing written reaches the host; the exchange folder alone is the host's own, at the same path. Then
# jobs are taken from the serial line: their ids come in, `done ID` goes out, the rest lies in the exchange folder.
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
exchange=$nightlatch_exchange
mount -n -t proc proc /proc
mount -n -t sysfs sysfs /sys
version=$(uname -r)
modules=/usr/lib/uml/modules/$version
mount -n -t tmpfs tmpfs /mnt
mkdir -p /mnt/up /mnt/work /mnt/root "/mnt/kernel/lib/modules/$version"
mount -n --bind "$modules" "/mnt/kernel/lib/modules/$version"
# All that will be needed: nothing is loaded on demand, because the machine's /lib/modules is another kernel's.
for names in "cbc xts" "overlay dm_mod dm_crypt dm_thin_pool dm_snapshot loop fuse algif_skcipher"; do
  modprobe -d /mnt/kernel -a $names
done
# Newer kernels have these built in.
for name in aes_generic sha256_generic; do modprobe -d /mnt/kernel -q $name || true; done
# Node.js would use it, and User Mode Linux 7.2 ends with a panic then.
[ ! -e /proc/sys/kernel/io_uring_disabled ] || echo 2 >/proc/sys/kernel/io_uring_disabled

root=/mnt/root
mount -n -t overlay overlay -o lowerdir=/,upperdir=/mnt/up,workdir=/mnt/work,xino=off,redirect_dir=off,index=off,metacopy=off $root
for folder in proc sys dev; do mount -n --move "/$folder" "$root/$folder"; done
# As large as the memory, of which a disk with holes takes little.
for folder in run tmp var/tmp; do mount -n -t tmpfs -o size=100% tmpfs "$root/$folder"; done
chmod 1777 "$root/tmp" "$root/var/tmp"
mkdir -p "$root/run/lock" "$root/run/lvm" "$root/dev/pts" "$root/dev/shm"
mount -n -t devpts devpts "$root/dev/pts" -o ptmxmode=666
mount -n -t tmpfs tmpfs "$root/dev/shm"
ln -sfn /proc/self/fd "$root/dev/fd"
for fd in 0:stdin 1:stdout 2:stderr; do ln -sfn "/proc/self/fd/${fd%:*}" "$root/dev/${fd#*:}"; done
# A checkout below one of these folders is covered too.
mkdir -p "$root$nightlatch_checkout"
[ -e "$root$nightlatch_checkout/package.json" ] || mount -n -t hostfs none "$root$nightlatch_checkout" -o "ro,$nightlatch_checkout"
mkdir -p "$root$exchange"
mount -n -t hostfs none "$root$exchange" -o "$exchange"
ip link set lo up
exec chroot $root /bin/bash "$exchange/jobs.sh" "$exchange"
