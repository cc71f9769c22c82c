# Keeps a marker on every disk and one in memory, says at each boot which it found, and answers commands on the serial
# console. Lines before this one set root_marker, ephemeral_marker, swap_marker and memory_marker. POSIX sh with the
# tools of busybox or of any cloud image. A marker is never printed: the console is logged in clear.

boot_id=$(cat /proc/sys/kernel/random/boot_id)
root_file=/var/lib/nightlatch-marker
memory_file=/run/nightlatch-memory
swap_block=65536

say() {
	echo "NIGHTLATCH $*" >&3
}

bytes() {
	dd if="$1" bs=1 skip="$2" count="$3" 2>/dev/null | tr -d '\000'
}

# Prints the whole disk whose bytes at $1 are the text $2.
find_disk() {
	for sys in /sys/block/[vs]d*; do
		disk=/dev/${sys##*/}
		[ -b "$disk" ] && [ "$(bytes "$disk" "$1" ${#2})" = "$2" ] && echo "$disk" && return
	done
}

find_disks() {
	ephemeral_disk=$(find_disk 1144 ephemeral0) # the label in an ext4 superblock
	swap_disk=$(find_disk 4086 SWAPSPACE2)
	[ -n "$ephemeral_disk" ] && find_ephemeral_folder
	# A marker in swap space that is in use could be overwritten by any page.
	[ -n "$swap_disk" ] && grep -q "^$swap_disk " /proc/swaps && swapoff "$swap_disk"
}

find_ephemeral_folder() {
	grep -q "^$ephemeral_disk " /proc/mounts || mount -t ext4 "$ephemeral_disk" /mnt
	ephemeral_folder=$(sed -n "s|^$ephemeral_disk \([^ ]*\) .*|\1|p" /proc/mounts | head -n 1)
}

has_place() {
	case $1 in
	ephemeral) [ -n "$ephemeral_folder" ] ;;
	swap) [ -n "$swap_disk" ] ;;
	*) true ;;
	esac
}

keeps_marker() {
	case $1 in
	root) [ "$(cat $root_file 2>/dev/null)" = "$root_marker" ] ;;
	ephemeral) [ "$(cat "$ephemeral_folder/nightlatch-marker" 2>/dev/null)" = "$ephemeral_marker" ] ;;
	swap) [ "$(bytes "$swap_disk" $swap_block ${#swap_marker})" = "$swap_marker" ] ;;
	memory) [ "$(cat $memory_file 2>/dev/null)" = "$memory_marker" ] ;;
	esac
}

write_marker() {
	case $1 in
	root) echo "$root_marker" >$root_file ;;
	ephemeral) echo "$ephemeral_marker" >"$ephemeral_folder/nightlatch-marker" ;;
	swap) printf %s "$swap_marker" | dd of="$swap_disk" bs=$swap_block seek=1 conv=notrunc,fsync 2>/dev/null ;;
	memory) echo "$memory_marker" >$memory_file ;;
	esac
	sync
}

state_at_boot() {
	has_place "$1" || { echo absent && return; }
	keeps_marker "$1" && echo found && return
	write_marker "$1"
	keeps_marker "$1" && echo written || echo failed
}

state_now() {
	has_place "$1" || { echo absent && return; }
	keeps_marker "$1" && echo found || echo lost
}

say_markers() {
	# What is read back comes from the disks, not from the page cache.
	sync
	echo 3 >/proc/sys/vm/drop_caches
	say "markers boot=$boot_id root=$(state_now root) ephemeral=$(state_now ephemeral)" \
		"swap=$(state_now swap) memory=$(state_now memory)"
}

say_sizes() {
	for sys in /sys/block/[vs]d*; do
		[ -e "$sys/size" ] && say "size ${sys##*/} $(($(cat "$sys/size") * 512))"
	done
	say "size done"
}

# A panic from which the machine reboots a second later, with nothing flushed.
crash() {
	say crash
	echo 1 >/proc/sys/kernel/panic
	echo 1 >/proc/sys/kernel/sysrq
	echo c >/proc/sysrq-trigger
}

obey() {
	case $1 in
	echo) say "echo $2" ;;
	markers) say_markers ;;
	memory) keeps_marker memory && say "memory kept $boot_id" || say "memory lost $boot_id" ;;
	size) say_sizes ;;
	poweroff)
		say poweroff
		sync
		/sbin/poweroff
		;;
	crash) crash ;;
	*) say "unknown command $1" ;;
	esac
}

open_console() {
	exec 3<>/dev/ttyS0
	stty -F /dev/ttyS0 icanon icrnl -echo -ixon -isig
}

free_console() {
	command -v systemctl >/dev/null || return
	systemctl mask --runtime serial-getty@ttyS0.service
	systemctl stop serial-getty@ttyS0.service
}

serve() {
	trap '' HUP
	free_console
	open_console
	say "boot $boot_id"
	find_disks
	for place in root ephemeral swap memory; do say "$place $(state_at_boot $place)"; done
	say "listening $boot_id"
	while :; do
		while read -r word command argument <&3; do
			[ "$word" = NL ] && obey "$command" "$argument"
		done
		# Whoever had the terminal before was ended and hung it up.
		sleep 1
		open_console
	done
}

# In the background, so that the boot goes on.
serve </dev/null >/dev/null 2>&1 &
