# PID 1 of a guest with systemd: one service, which runs /config/boot.sh. Disks, mounts and network are there already.
mkdir -p /run/systemd/system
cat > /run/systemd/system/lab.service <<-'END'
	[Unit]
	DefaultDependencies=no
	[Service]
	ExecStart=/bin/sh /config/boot.sh
	StandardOutput=null
	StandardError=null
	OOMScoreAdjust=-1000
	Delegate=yes
END
printf '[Unit]\nWants=lab.service\nDefaultDependencies=no\n' > /run/systemd/system/lab.target
grep -q systemd-oom /etc/passwd || echo 'systemd-oom:x:991:991::/:/usr/sbin/nologin' >> /etc/passwd
grep -q systemd-oom /etc/group || echo 'systemd-oom:x:991:' >> /etc/group
grep -q messagebus /etc/passwd || echo 'messagebus:x:992:992::/:/usr/sbin/nologin' >> /etc/passwd
grep -q messagebus /etc/group || echo 'messagebus:x:992:' >> /etc/group
head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n' > /etc/machine-id
exec /lib/systemd/systemd --unit=lab.target
