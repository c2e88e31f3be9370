# Run by init as /config/boot.sh: swap, data, counters, the pods' network, then containerd and the kubelet.
# /config/env has set NODE, POD_CIDR, POD_NETWORK, API_ADDRESS, API_PORT.
say() { echo "node: $* at $(cut -d' ' -f1 /proc/uptime) s" > /dev/ttyS0; }

hostname "$NODE"
echo "10.0.2.15 $NODE" >> /etc/hosts
for module in overlay veth bridge br_netfilter nft_chain_nat nft_masq nft_nat nft_ct; do modprobe "$module"; done

mkswap /dev/disk-swap > /dev/null
swapon /dev/disk-swap
sysctl -q -w vm.swappiness=100 vm.page-cluster=0 net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0
if [ -e /dev/disk-data ]; then
	mkdir -p /data
	mount -t ext4 -o ro /dev/disk-data /data
fi

# Counts every allocation that gave up, by its flags, whatever the log's rate limit hides (mm/page_alloc.c, warn_alloc).
trace=/sys/kernel/tracing
echo 'p:gave_up warn_alloc gfp=%di:x32' > $trace/kprobe_events
echo 'hist:keys=gfp' > $trace/events/kprobes/gave_up/trigger
echo 1 > $trace/events/kprobes/gave_up/enable
# When which program wrote to cgroup.kill, by the clock of /proc/uptime (kernel/cgroup/cgroup.c, cgroup_kill_write).
echo 'p:kill_written cgroup_kill_write comm=$comm' >> $trace/kprobe_events
mkdir $trace/instances/kills
echo 64 > $trace/instances/kills/buffer_size_kb
echo boot > $trace/instances/kills/trace_clock
echo 1 > $trace/instances/kills/events/kprobes/kill_written/enable

# In the place of kube-proxy: the one Service that pods here ask for is the API server's.
nft -f - << RULES
table ip memory_pressure {
	chain prerouting { type nat hook prerouting priority -100; ip daddr $API_ADDRESS tcp dport 443 dnat to 10.0.2.2:$API_PORT; }
	chain output { type nat hook output priority -100; ip daddr $API_ADDRESS tcp dport 443 dnat to 10.0.2.2:$API_PORT; }
	chain postrouting { type nat hook postrouting priority 100; ip saddr $POD_NETWORK ip daddr != $POD_NETWORK masquerade; }
}
RULES
mkdir -p /etc/cni/net.d
cat > /etc/cni/net.d/10-bridge.conflist << CNI
{"cniVersion": "1.0.0", "name": "bridge", "plugins": [{
	"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "mtu": 1500,
	"ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
CNI

# What serves the node keeps its memory, as system.slice does where an administrator cares: else the node goes NotReady.
system=/sys/fs/cgroup/system
mkdir -p $system
for controller in cpu io memory pids; do echo "+$controller" > $system/cgroup.subtree_control; done
echo 250M > $system/memory.min
echo 0 > $system/memory.swap.max
for part in containerd kubelet; do
	mkdir -p $system/$part
	echo 120M > $system/$part/memory.min
done
start() { # PART COMMAND...: in a cgroup of its own
	part=$1
	shift
	echo 0 > $system/$part/cgroup.procs
	echo -999 > /proc/self/oom_score_adj
	exec "$@" > /run/log/$part.log 2>&1
}
serve() { # PART COMMAND...: starts it again when it ends, as systemd does
	while :; do
		(start "$@")
		say "$1 ended with code $?"
		sleep 1
	done
}
nc -ll -p 4242 -e /sbin/load-gate &
mkdir -p /run/log /run/containerd /etc/kubernetes
cp /config/kubeconfig /config/ca.crt /config/kubelet.yaml /etc/kubernetes/
GOGC=50 serve containerd containerd &
while ! [ -S /run/containerd/containerd.sock ]; do sleep 0.1; done
say containerd runs
serve kubelet kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubeconfig \
	--hostname-override="$NODE" --node-ip=10.0.2.15 --node-labels="$NODE_LABELS" --v=1 &
say kubelet started
