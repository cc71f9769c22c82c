#!/bin/busybox sh
exec poweroff
