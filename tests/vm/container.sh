#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# A container as a runtime makes it: container.sh in|host ...
#
#   container.sh host MOUNTS CAPABILITIES NODE     in a guest: the pod of the manifest, then one that has less
#   container.sh in MOUNTS CAPABILITIES SCRIPT     in namespaces of its own: what the runtime does before the program starts
set -e
self=$(realpath "$0")

case "$1" in
host)
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
	for path in $2 /sys/fs/cgroup; do
		mkdir -p "/run/host$path"
		mountpoint -q "/run/host$path" || mount --rbind "$path" "/run/host$path"
	done
	mkdir /sys/fs/cgroup/pod.slice /sys/fs/cgroup/other.slice
	echo $$ >/sys/fs/cgroup/pod.slice/cgroup.procs
	# The host's own work, in another cgroup, once the pod records.
	(
		echo 0 >/sys/fs/cgroup/other.slice/cgroup.procs
		until [ -e /dev/shm/work ]; do sleep 0.1; done
		"$(dirname "$self")/../../kernel/workload" secretmem --pages 61 >/dev/null
		touch /dev/shm/worked
	) &
	UAPTRACE_HOST_NAME=$4 unshare --mount --uts --ipc --cgroup "$self" in "$2" "$3" pod
	unshare --mount --uts --ipc --cgroup --pid --fork --mount-proc "$self" in "" syslog,bpf check
	;;
in)
	hostname pod-1
	mount --make-rprivate /
	mount -t sysfs -o ro sysfs /sys
	mount -t cgroup2 -o ro cgroup2 /sys/fs/cgroup
	mount --bind /dev/null /proc/kcore
	for path in $2; do mount --rbind "/run/host$path" "$path"; done
	# readOnlyRootFilesystem: nothing can be written but where a runtime mounts something of its own.
	mount -o bind,remount,ro=recursive /
	mount -o bind,remount,rw /dev
	mount -o bind,remount,rw /dev/shm
	caps=-all,+$(echo "$3" | sed 's/,/,+/g')
	exec setpriv --no-new-privs --bounding-set="$caps" "$self" "$4"
	;;
check)
	uaptrace check --json || true
	;;
pod)
	for path in / /tmp /run /var/cache; do
		! touch "$path/writable" 2>/dev/null || { echo "$path can be written" >&2; exit 1; }
	done
	uaptrace check --json || true
	uaptrace verify --json || true
	uaptrace record -o /dev/shm/pod.uaptrace --ready-file /dev/shm/recording 2>/dev/shm/recorder &
	recorder=$!
	until [ -e /dev/shm/recording ]; do kill -0 $recorder || { cat /dev/shm/recorder >&2; exit 1; }; sleep 0.1; done
	touch /dev/shm/work
	until [ -e /dev/shm/worked ]; do sleep 0.1; done
	kill -INT $recorder
	wait $recorder || true
	uaptrace top --once --json --replay /dev/shm/pod.uaptrace
	;;
esac
