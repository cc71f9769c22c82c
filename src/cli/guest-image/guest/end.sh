#!/bin/busybox sh
# Runs when the machine powers off or reboots, after every other process was asked to end.
umount -a -r 2>/dev/null
mount -o remount,ro / 2>/dev/null
sync
