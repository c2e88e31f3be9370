#!/bin/busybox sh
# In the initial ram disk: loads what the root disk needs, mounts it, goes on with its /sbin/init.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*.ko*; do insmod "$module"; done
tries=0
while [ -z "$root" ] && [ "$tries" -lt 50 ]; do
	for disk in /sys/block/vd*; do
		[ "$(cat "$disk/serial" 2>/dev/null)" = root ] && root=/dev/${disk##*/}
	done
	tries=$((tries + 1))
	[ -n "$root" ] || sleep 0.2
done
if ! mount -t ext4 -o noatime "$root" /new; then
	echo "initrd: no root disk" > /dev/ttyS0
	poweroff -f
fi
umount /proc /sys
mount --move /dev /new/dev
exec switch_root /new /sbin/init
