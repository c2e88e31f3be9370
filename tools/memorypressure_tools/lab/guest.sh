# Functions of a run in the guest, for busybox's sh; `script.py` calls them in order. Sourced, never run by itself.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
OUT=/out
CG=/sys/fs/cgroup
TRACE=/sys/kernel/tracing
OWN_UID=00000000-0000-4000-8000-000000000001
mkdir -p $OUT /pods /data
mount -t tmpfs -o size=64m out $OUT
mount -t ext4 -o ro /dev/disk-data /data
exec > $OUT/run.log 2>&1
set -x
# The script and what it starts are the node's, not a pod's.
echo -1000 > /proc/self/oom_score_adj
# The lab's own measuring stays in memory by mlock and without swap. No memory.min: protected page cache counts as
# MemAvailable and cannot be had, which in a guest of 512 MB is much.
mkdir -p $CG/lab
echo 0 > $CG/lab/memory.swap.max
echo $$ > $CG/lab/cgroup.procs
KUBEPODS=$CG/kubepods

say() { echo "$*" > /dev/ttyS0; }
now() { cut -d' ' -f1 /proc/uptime; }
mark() { echo "$1 $(now)" >> $OUT/marks.txt; }

sleep_until_since_start() { # seconds after the mark `start`
	awk -v start="$(awk '$1 == "start" { print $2 }' $OUT/marks.txt)" -v now="$(now)" -v after="$1" \
		'BEGIN { left = start + after - now; print (left > 0 ? left : 0) }' > $OUT/.left
	sleep "$(cat $OUT/.left)"
	rm $OUT/.left
}

tree() { # the cgroups above the pods
	mkdir -p $KUBEPODS/burstable
	for each in $KUBEPODS $KUBEPODS/burstable; do
		echo "+memory +pids" > $each/cgroup.subtree_control
	done
}

systemd_tree() { # limit, duration: the same below a slice of systemd (PID 1 is systemd here), watched by systemd-oomd
	mkdir -p /run/systemd/system /etc/systemd/oomd.conf.d
	printf '[Slice]\nManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=%s\nManagedOOMSwap=kill\n' "$1" \
		> /run/systemd/system/kubepods.slice
	printf '[OOM]\nDefaultMemoryPressureLimit=%s\nDefaultMemoryPressureDurationSec=%s\n' "$1" "$2" \
		> /etc/systemd/oomd.conf.d/50-lab.conf
	mkdir -p /run/systemd/system/systemd-oomd.service.d
	printf '[Service]\nEnvironment=SYSTEMD_LOG_LEVEL=debug\nStandardError=file:%s/killer.log\n' $OUT \
		> /run/systemd/system/systemd-oomd.service.d/log.conf
	systemctl daemon-reload
	systemctl start kubepods.slice
	# Where systemd has made the slice, which is not the root: PID 1 was in a cgroup of its own when it became systemd.
	KUBEPODS=$CG$(systemctl show -P ControlGroup kubepods.slice)
	tree
}

neighbour() { # the sender of the TCP flood answers no ARP
	ip neigh replace 10.9.0.1 lladdr 52:54:00:09:00:01 dev eth1 nud permanent
}

reserve() { # min_free_kbytes (0: keep), factor, swappiness
	echo 0 > /proc/sys/vm/panic_on_oom
	echo 1 > /proc/sys/vm/overcommit_memory # as the kubelet sets it
	echo "$3" > /proc/sys/vm/swappiness
	echo 0 > /proc/sys/vm/page-cluster
	[ "$1" = 0 ] || echo "$1" > /proc/sys/vm/min_free_kbytes
	awk -v factor="$2" '{ printf "%d", $1 * factor }' /proc/sys/vm/min_free_kbytes > $OUT/min_free_kib.txt
	[ "$2" = 1 ] || cat $OUT/min_free_kib.txt > /proc/sys/vm/min_free_kbytes
}

huge_pages() { # not by the kernel's command line: below 512 MB it switches them off whatever that says
	echo always > /sys/kernel/mm/transparent_hugepage/enabled
	echo always > /sys/kernel/mm/transparent_hugepage/defrag
}

swap_disk() {
	mkswap /dev/disk-swap
	swapon /dev/disk-swap
}

swap_zram() { # MiB
	modprobe zram num_devices=1
	echo "$1M" > /sys/block/zram0/disksize
	mkswap /dev/zram0
	swapon /dev/zram0
}

probes() {
	# Counts every allocation that the kernel gives up, whatever it prints: warn_alloc(gfp_mask, ...) is called first.
	echo boot > $TRACE/trace_clock
	echo 512 > $TRACE/buffer_size_kb
	echo 'p:giveup warn_alloc gfp=%di:x32' > $TRACE/kprobe_events
	# The histogram counts all; the records, of which the oldest may be lost, tell when atomic ones failed (__GFP_HIGH).
	echo 'hist:keys=gfp' > $TRACE/events/kprobes/giveup/trigger
	echo 'gfp & 0x20' > $TRACE/events/kprobes/giveup/filter
	echo 1 > $TRACE/events/kprobes/giveup/enable
	echo 1 > $TRACE/tracing_on
	# Signals have a buffer of their own, which no flood of failures overwrites.
	SIGNALS=$TRACE/instances/signals
	mkdir $SIGNALS
	echo boot > $SIGNALS/trace_clock
	echo 'sig==9 || sig==15' > $SIGNALS/events/signal/signal_generate/filter
	echo 1 > $SIGNALS/events/signal/signal_generate/enable
	echo 1 > $SIGNALS/tracing_on
}

pod() { # name, uid, limit in MiB (0: none): the pod's cgroup, its sandbox, an empty container
	pod=$KUBEPODS/burstable/pod$2
	mkdir -p "$pod"
	echo "+memory +pids" > "$pod/cgroup.subtree_control"
	mkdir "$pod/$(echo "sandbox $1" | sha256sum | cut -d' ' -f1)"
	(
		echo 0 > "$pod/$(echo "sandbox $1" | sha256sum | cut -d' ' -f1)/cgroup.procs"
		echo -998 > /proc/self/oom_score_adj
		exec /config/bin/pause
	) &
	echo "$2" > "/pods/.$1.uid"
	new_container "$1" 0
	[ "$3" = 0 ] || echo "$3M" > "/pods/$1/memory.max"
}

new_container() { # name, attempt: an empty container of the pod, shown as /pods/NAME
	directory=$KUBEPODS/burstable/pod$(cat "/pods/.$1.uid")/$(echo "$1 $2" | sha256sum | cut -d' ' -f1)
	mkdir "$directory"
	ln -sfn "$directory" "/pods/$1"
}

run() { # name, oom_score_adj, command...: the pod's program in its container
	name=$1 adjusted=$2
	shift 2
	(
		echo 0 > "/pods/$name/cgroup.procs"
		echo "$adjusted" > /proc/self/oom_score_adj
		exec "$@"
	) >> $OUT/$name.log 2>&1 &
	echo "$name $!" >> $OUT/pids.txt
}

run_again() { # as run; when it ends, it is started in a new container after 2 s, as the kubelet does
	(
		attempt=0
		while [ ! -e $OUT/.finished ]; do
			run "$@"
			wait $!
			attempt=$((attempt + 1))
			sleep 2
			[ -e $OUT/.finished ] || new_container "$1" $attempt
		done
	) &
}

measure() { # seconds, sample ms, canary KiB, canary ms, files...: sampler and bystander; returns when they measure
	seconds=$1 sample=$2 canary_kib=$3 canary_ms=$4
	shift 4
	/config/bin/sampler "$seconds" "$sample" $OUT/timeline "$@" > $OUT/.sampler 2>> $OUT/sampler.err &
	SAMPLER=$!
	tries=0
	while ! grep -q ready $OUT/.sampler && [ $tries -lt 100 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	(
		mkdir -p $CG/bystander
		echo 0 > $CG/bystander/cgroup.procs
		exec /config/bin/canary "$seconds" "$canary_kib" "$canary_ms" $OUT/canary.txt $OUT/canary.csv
	) &
	CANARY=$!
}

killer_cgroup() { # a cgroup like a system service's, with protected memory, for the killers that are no pods
	mkdir -p $CG/killer
	echo 64M > $CG/killer/memory.min
	echo 0 > $CG/killer/memory.swap.max
}

start_killer() { # command...: in the killer's cgroup
	killer_cgroup
	(
		echo 0 > $CG/killer/cgroup.procs
		exec "$@"
	) > $OUT/killer.log 2>&1 &
	KILLER=$!
}

killer_none() { KILLER=; }

killer_earlyoom() { start_killer earlyoom "$@"; sleep 1; }

killer_nohang() { # key=value...: what differs from the packaged configuration
	cp /etc/nohang/nohang.conf /run/nohang.conf
	for each in "$@"; do
		sed -i "s/^${each%%=*} = .*/${each%%=*} = ${each#*=}/" /run/nohang.conf
	done
	start_killer python3 /usr/sbin/nohang --monitor --config /run/nohang.conf
	sleep 3
}

killer_oomd() {
	start_killer /usr/bin/oomd --config /config/lab/oomd.json --cgroup-fs $CG "$@"
	sleep 2
}

killer_systemd_oomd() { # options were taken by systemd_tree; the packaged service, with the protection that it asks for
	systemctl start systemd-oomd
	KILLER=$(systemctl show -P MainPID systemd-oomd)
	# A run is void unless systemd has told it to watch the cgroup that the pods are in.
	watched="\"path\":\"${KUBEPODS#"$CG"}\",\"property\":\"ManagedOOMMemoryPressure\"" tries=0
	while ! grep -qF "$watched" $OUT/killer.log && [ $tries -lt 100 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	if grep -qF "$watched" $OUT/killer.log && [ -e "$KUBEPODS/burstable/memory.pressure" ]; then
		echo "armed: systemd-oomd watches $KUBEPODS" > $OUT/armed.txt
	else
		echo "systemd-oomd does not watch $KUBEPODS" > $OUT/armed.txt
	fi
}

killer_ours() { # host|own PID namespace, options...: our agent as its DaemonSet's pod runs it; a run without it is void
	namespace=$1
	shift
	mkdir -p /run/mp "$KUBEPODS/pod$OWN_UID"
	echo "+memory +pids" > "$KUBEPODS/pod$OWN_UID/cgroup.subtree_control"
	mkdir "$KUBEPODS/pod$OWN_UID/sentinel"
	export PYTHONPATH=/config/agent
	python3 /config/lab/granter.py > $OUT/armed.txt 2>&1 &
	granter=$! tries=0
	while [ ! -e /run/mp/prepared ] && [ $tries -lt 300 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
	[ "$namespace" = host ] && prefix= || prefix="unshare -p -f --mount-proc"
	(
		echo 0 > "$KUBEPODS/pod$OWN_UID/sentinel/cgroup.procs"
		echo -997 > /proc/self/oom_score_adj
		exec $prefix python3 -c 'import sys; from memorypressure_agent.cli import main; sys.exit(main())' sentinel \
			--orders /run/mp/orders.json --journal /run/mp/journal --own-pod-uid $OWN_UID "$@"
	) > $OUT/killer.log 2>&1 &
	KILLER=$!
	wait $granter
	[ "$namespace" = host ] || read -r KILLER _ < /proc/$KILLER/task/$KILLER/children
	[ -n "$KILLER" ] && [ -e "/proc/$KILLER/stat" ] || echo "the agent's process was not found" > $OUT/armed.txt
}

killer_use() { # before|after: CPU time, page faults and memory of the killer
	[ -n "$KILLER" ] && [ -e /proc/$KILLER/stat ] || return 0
	if [ "$1" = before ]; then
		cp /proc/$KILLER/stat $OUT/.killer
	else
		{
			awk '{ cpu = $14 + $15; minor = $10; major = $12 }
				NR > 1 { print "cpu_ticks", cpu - cpu0; print "minor_faults", minor - minor0; print "major_faults", major - major0 }
				{ cpu0 = cpu; minor0 = minor; major0 = major }' $OUT/.killer /proc/$KILLER/stat
			grep -E '^Vm(RSS|Lck|HWM)' /proc/$KILLER/status
		} > $OUT/killer.txt
	fi
}

finish() { # ends the load first, then what measured it, and puts everything on the disk for results
	touch $OUT/.finished
	killer_use after
	[ -e /run/mp/journal ] && cp /run/mp/journal /run/mp/orders.json $OUT/
	cat $SIGNALS/trace > $OUT/signals.txt
	cat $TRACE/trace > $OUT/failures.txt
	cat $TRACE/events/kprobes/giveup/hist > $OUT/giveups.txt
	cat /proc/vmstat > $OUT/vmstat.txt
	cat /proc/net/snmp > $OUT/snmp.txt
	cat /proc/net/dev > $OUT/netdev.txt
	for each in /pods/*; do
		{ echo "$each"; cat "$each/memory.events" "$each/memory.stat"; } >> $OUT/cgroups.txt
	done
	for each in $KUBEPODS/burstable/*/*/cgroup.kill; do echo 1 > "$each"; done
	kill -TERM $CANARY $SAMPLER
	[ -z "$KILLER" ] || kill -TERM $KILLER
	wait $CANARY $SAMPLER
	dmesg > $OUT/dmesg.txt
	set +x
	tar cf /dev/disk-out -C $OUT .
	sync
}
