#!/bin/busybox sh
# Ends everything, then the machine. Busybox's own poweroff does the same by way of init, which sleeps two seconds.
trap '' TERM HUP
kill -TERM -1
usleep 300000
kill -KILL -1
. /etc/init.d/end
exec busybox poweroff -f
