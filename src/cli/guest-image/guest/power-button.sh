#!/bin/busybox sh
exec /sbin/poweroff
