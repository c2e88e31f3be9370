"""One node of the cluster: a virtual machine with a kubelet, made of the root image and of what is this node's own."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from memorypressure_tools.controlplane import ControlPlane
from memorypressure_tools.guest import images
from memorypressure_tools.guest.kernel import Kernel
from memorypressure_tools.guest.machine import Disk, FloodCard, Forward, Machine
from memorypressure_tools.guest.running import Running
from memorypressure_tools.guest.shell import Shell

FILES: Final = Path(__file__).resolve().with_name("files")
API_ADDRESS: Final = "10.96.0.1"
"""The Service `kubernetes`: the first address of the control plane's service range."""
GUEST_VIEW_OF_HOST: Final = "10.0.2.2"
"""This machine's loopback, from inside QEMU's user-mode network."""
POD_NETWORK: Final = "10.244.0.0/16"
KUBELET_PORT: Final = 10250
DATA_MIB: Final = 320


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What may differ between nodes."""

    memory_mib: int = 768
    cpus: int = 2
    #: more than the load can use, so that the kernel's OOM killer is not what ends it
    swap_mib: int = 1024
    swap_bytes_per_second: int = 5_000_000
    #: the kubelet's hard eviction threshold of memory.available; 0% switches it off
    eviction_memory_available: str = "0%"
    labels: tuple[str, ...] = ()
    #: further words of the kernel's command line; without huge pages khugepaged does not raise min
    append: tuple[str, ...] = ("transparent_hugepage=never",)


def kubelet_configuration(options: NodeOptions) -> dict[str, Any]:
    """The kubelet's configuration file: cgroupfs driver, LimitedSwap, no pulls, eviction as the options say."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": "/etc/kubernetes/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "staticPodPath": "/etc/kubernetes/manifests",
        "failSwapOn": False,
        "memorySwap": {"swapBehavior": "LimitedSwap"},
        "clusterDomain": "cluster.local",
        "clusterDNS": ["127.0.0.1"],  # there is none: look-ups fail at once
        "resolvConf": "/etc/resolv.conf",
        "imageGCHighThresholdPercent": 100,
        # Local storage isolation stays on: without it the eviction manager finds no filesystem and does nothing at all.
        "evictionHard": {
            "memory.available": options.eviction_memory_available,
            "nodefs.available": "0%",
            "imagefs.available": "0%",
        },
    }


class Node:
    """A started node; `shell` is root's in it, `address` this machine's loopback address of its kubelet."""

    def __init__(
        self,
        name: str,
        index: int,
        *,
        plane: ControlPlane,
        address: str,
        root: Path,
        kernel: Kernel,
        options: NodeOptions,
        flood: FloodCard | None,
    ) -> None:
        self.name = name
        self.address = address
        self.flood = flood
        self.options = options
        self.directory = plane.directory / name
        self.directory.mkdir()
        images.overlay(root, self.directory / "root.qcow2")
        images.empty(self.directory / "swap", options.swap_mib)
        machine = Machine(
            name=name,
            kernel=kernel,
            initrd=images.initrd(kernel),
            memory_mib=options.memory_mib,
            cpus=options.cpus,
            append=options.append,
            disks=[
                Disk(serial="root", file=self.directory / "root.qcow2", format="qcow2"),
                Disk(serial="swap", file=self.directory / "swap", bytes_per_second=options.swap_bytes_per_second),
                Disk(serial="data", file=images.data_disk(DATA_MIB), read_only=True),
            ],
            forwards=[Forward(guest_port=KUBELET_PORT, port=KUBELET_PORT, address=address)],
            flood=flood,
        )
        identity = plane.identity(f"system:node:{name}", ["system:nodes"])
        kubeconfig = plane.write_kubeconfig(
            name, identity=identity, server=f"https://{GUEST_VIEW_OF_HOST}:{plane.port}"
        )
        environment = {
            "NODE": name,
            "NODE_LABELS": ",".join(options.labels),
            "POD_CIDR": f"10.244.{index}.0/24",
            "POD_NETWORK": POD_NETWORK,
            "API_ADDRESS": API_ADDRESS,
            "API_PORT": str(plane.port),
        }
        self._machine = machine
        self._files: dict[str, str | bytes | Path] = {
            "env": "".join(f"export {key}={shlex.quote(value)}\n" for key, value in environment.items()),
            "boot.sh": FILES / "node.sh",
            "kubelet.yaml": json.dumps(kubelet_configuration(options), indent=1),
            "kubeconfig": kubeconfig,
            "ca.crt": plane.authority.certificate_file,
        }
        self.machine = Running(machine, self.directory, self._files)

    @property
    def shell(self) -> Shell:
        """A root shell in the node."""
        return self.machine.shell

    def reboot(self) -> None:
        """Pulls the plug and starts the machine again with the disks as they were."""
        self.machine.stop()
        self.machine = Running(self._machine, self.directory, self._files)

    def stop(self) -> None:
        """Ends the machine."""
        self.machine.stop()

    def logs(self) -> str:
        """The ends of the console and of the logs of boot script, containerd and kubelet, as far as they are there."""
        try:
            script = 'cd /run; for f in boot.log log/*.log; do echo "--- $f"; tail -n 200 $f; done'
            inside = self.shell.run(script, seconds=20, check=False)
        except Exception as error:  # noqa: BLE001 -- what can be shown is shown; this is for an error's text
            inside = f"(no shell: {error})"
        return f"--- console\n{self.machine.serial()[-5000:]}\n{inside}"
