#!/bin/busybox sh
# Leaves the file systems clean before the machine powers off or reboots.
umount -a -r 2>/dev/null
mount -o remount,ro / 2>/dev/null
sync
