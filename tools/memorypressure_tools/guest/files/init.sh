#!/bin/sh
# PID 1 of a guest: mounts, disks by serial, network, the shell's server, then /config/boot.sh; reaps for ever.
# /config/init.sh, if there is one, goes on as PID 1 instead of the last two.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t securityfs security /sys/kernel/security 2>/dev/null
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tracefs trace /sys/kernel/tracing
mount --make-rshared /
for controller in cpuset cpu io memory hugetlb pids; do
	echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done 2>/dev/null
mkdir /sys/fs/cgroup/init
echo 1 > /sys/fs/cgroup/init/cgroup.procs
# The shell has to answer while everything else thrashes, and the kernel's OOM killer has to leave it alone.
echo 16M > /sys/fs/cgroup/init/memory.min
echo -1000 > /proc/self/oom_score_adj

modprobe virtio_net
modprobe virtio_rng
for disk in /sys/block/vd*; do
	[ -e "$disk/serial" ] && ln -sf "/dev/${disk##*/}" "/dev/disk-$(cat "$disk/serial")"
done
mkdir -p /config
tar xf /dev/disk-config -C /config
[ -f /config/env ] && . /config/env

ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2
if [ -e /sys/class/net/eth1 ]; then
	# The card of the flood; queues of sockets are bounded by their own buffers, not by udp_mem.
	ip addr add 10.9.0.2/24 dev eth1
	ip link set eth1 up
	echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
	echo 0 > /proc/sys/net/ipv4/conf/eth1/rp_filter
	echo 268435456 > /proc/sys/net/core/rmem_max
	echo 20000 > /proc/sys/net/core/netdev_max_backlog
	echo 1000000 2000000 3000000 > /proc/sys/net/ipv4/udp_mem
fi
echo "127.0.0.1 localhost" > /etc/hosts
nc -ll -p 2323 -e /sbin/guest-shell &
echo "init: network up at $(cut -d' ' -f1 /proc/uptime) s" > /dev/ttyS0
if [ -f /config/init.sh ]; then
	exec sh /config/init.sh
fi
if [ -f /config/boot.sh ]; then
	sh /config/boot.sh > /run/boot.log 2>&1 &
fi
while :; do
	wait
	sleep 1
done
