#!/bin/busybox sh
# First stage, in memory: bring up the disk that holds the root file system and hand over to it.
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys

load() {
	while read -r module; do insmod "/lib/modules/$module" 2>/dev/null; done <"/lib/modules/$1.list"
}

# The label of an ext4 file system lies 0x78 bytes into its superblock, which starts at 1024.
find_root() {
	for device in /dev/[vs]d[a-z][0-9]; do
		[ -b "$device" ] || continue
		label=$(dd if="$device" bs=1 skip=1144 count=16 2>/dev/null | tr -d '\000')
		[ "$label" = nightlatch-root ] && return 0
	done
	return 1
}

load virtio-disk
if ! find_root; then
	load other-disk
	tries=0
	until find_root || [ $tries -ge 50 ]; do
		usleep 100000
		tries=$((tries + 1))
	done
fi
if ! mount -t ext4 -o noatime "$device" /root; then
	echo "nightlatch-guest: no root file system found, or it cannot be mounted" >/dev/console
	poweroff -f
fi
for folder in dev proc sys; do mount -o move /$folder /root/$folder; done
exec switch_root /root /sbin/init
