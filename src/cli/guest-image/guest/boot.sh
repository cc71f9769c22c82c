#!/bin/busybox sh
# Second stage, at every boot: devices, the config drive, the user data. What cloud-init does on a cloud image, in small.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
[ -e /bin/ls ] || /bin/busybox --install -s

STATE=/var/lib/nightlatch-guest

say() {
	echo "nightlatch-guest: $*" >/dev/console
}

load() {
	while read -r module; do insmod "/lib/modules/$module" 2>/dev/null; done <"/lib/modules/$1.list"
}

bytes() {
	dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | tr -d '\000'
}

# An ISO 9660 volume has "CD001" at 32769 and its name at 32808; a FAT one has its name at 43 or, with FAT32, at 71.
is_config_drive() {
	if [ "$(bytes "$1" 32769 5)" = CD001 ]; then
		set -- "$(bytes "$1" 32808 32)"
	elif [ "$(bytes "$1" 82 5)" = FAT32 ]; then
		set -- "$(bytes "$1" 71 11)"
	else
		set -- "$(bytes "$1" 43 11)"
	fi
	case $1 in config-2 | config-2\ * | CONFIG-2 | CONFIG-2\ *) return 0 ;; esac
	return 1
}

find_config_drive() {
	for device in /dev/[vs]d[a-z] /dev/[vs]d[a-z][0-9] /dev/sr[0-9]; do
		[ -b "$device" ] && is_config_drive "$device" && return 0
	done
	return 1
}

mount_config_drive() {
	mkdir -p /run/config-drive
	if ! find_config_drive; then
		load other-disk
		load optical
		find_config_drive || return 1
	fi
	load config-drive
	mount -t iso9660 -o ro "$device" /run/config-drive 2>/dev/null || mount -t vfat -o ro "$device" /run/config-drive
}

# The value of a string in a JSON file, if it holds no escapes. Names and ids hold none.
json_string() {
	tr -d '\n' <"$2" | sed -n "s/.*\"$1\"[ ]*:[ ]*\"\([^\"\\\\]*\)\".*/\1/p"
}

run_user_data() {
	read -r first <"$1"
	case $first in
	'#cloud-boothook'*)
		sed '1d' "$1" >/run/user-data
		;;
	'#!'*)
		if [ "$(cat $STATE/instance-id 2>/dev/null)" = "$INSTANCE_ID" ]; then
			say "user data has run before on this instance"
			return
		fi
		cat "$1" >/run/user-data
		echo "$INSTANCE_ID" >$STATE/instance-id
		;;
	*)
		say "user data is neither a script nor a #cloud-boothook; left alone"
		return
		;;
	esac
	chmod 700 /run/user-data
	read -r first </run/user-data
	case $first in
	'#!'*) setsid /run/user-data </dev/null >/dev/console 2>&1 & ;;
	*) setsid sh /run/user-data </dev/null >/dev/console 2>&1 & ;;
	esac
}

mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t devpts devpts /dev/pts
mkdir -p $STATE

load power-button
acpid -c /etc/acpi -l /dev/null -p /run/acpid.pid

if mount_config_drive; then
	latest=/run/config-drive/openstack/latest
	export INSTANCE_ID="$(json_string uuid $latest/meta_data.json)"
	hostname "$(json_string hostname $latest/meta_data.json)" 2>/dev/null
	[ -e $latest/user_data ] && run_user_data $latest/user_data
else
	say "no config drive found"
fi
say ready
