"""What a virtual machine is, and the QEMU command that runs it. Pure: nothing here touches the system."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from memorypressure_tools.guest.kernel import Kernel

QEMU: Final = "/usr/bin/qemu-system-x86_64"
LOOPBACK: Final = "127.0.0.1"
FLOOD_MAC: Final = "52:54:00:09:00:02"
APPEND: Final = ("console=ttyS0", "loglevel=1", "quiet", "panic=1", "psi=1", "log_buf_len=4M", "mitigations=off")
"""`panic=1` with QEMU's -no-reboot: a kernel that panics ends its machine instead of hanging it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """A virtio disk, which the guest finds by its serial as /dev/disk-SERIAL."""

    serial: str
    file: Path
    format: str = "raw"
    read_only: bool = False
    #: limit of reads and writes together; 0: none
    bytes_per_second: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """A TCP port of this machine's loopback that leads to a port of the guest."""

    guest_port: int
    port: int
    address: str = LOOPBACK


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodCard:
    """A network card whose frames are UDP datagrams on loopback, from `sender_port` to `port`: no tap device.

    Without merged receive buffers and with an MTU above a page the driver takes a whole page for every frame, order 0
    and GFP_ATOMIC, from softirq (drivers/net/virtio_net.c, add_recvbuf_big, Linux 6.1).
    """

    port: int
    sender_port: int
    mtu: int = 9000
    merged_buffers: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A virtual machine without KVM: software emulation on any Linux machine."""

    name: str
    kernel: Kernel
    initrd: Path
    disks: Sequence[Disk]
    memory_mib: int = 768
    cpus: int = 2
    #: memory and CPUs are divided evenly among them
    numa_nodes: int = 1
    #: further words of the kernel's command line
    append: Sequence[str] = ()
    #: into the guest's user-mode network, where it is 10.0.2.15 and this machine's loopback is 10.0.2.2
    forwards: Sequence[Forward] = ()
    flood: FloodCard | None = None
    #: memory below 4 GiB, the rest lies above it and makes a zone Normal; 0: as the machine type has it
    low_memory_mib: int = 0

    def __post_init__(self) -> None:
        if self.numa_nodes < 1 or self.memory_mib % self.numa_nodes or self.cpus < self.numa_nodes:
            raise ValueError(
                f"{self.name}: {self.memory_mib} MiB and {self.cpus} CPUs cannot be divided by {self.numa_nodes} nodes"
            )
        serials = [disk.serial for disk in self.disks]
        if "root" not in serials or len(set(serials)) < len(serials):
            raise ValueError(f"{self.name}: disks need serials of their own, one of them `root`; given: {serials}")


def qemu_command(machine: Machine, serial_log: Path) -> list[str]:
    """The command that runs the machine; what the guest writes to its serial console is appended to the log.

    It has to be started in the machine's directory, where it makes its control socket: a path may be too long for one.
    """
    words = [QEMU, "-name", machine.name, "-accel", "tcg,thread=multi", "-nodefaults", "-display", "none", "-no-reboot"]
    if machine.low_memory_mib:
        words += ["-machine", f"pc,max-ram-below-4g={machine.low_memory_mib}M"]
    words += ["-m", f"{machine.memory_mib}M", "-smp", str(machine.cpus), *_numa(machine)]
    words += ["-kernel", str(machine.kernel.image), "-initrd", str(machine.initrd)]
    words += ["-append", " ".join([*APPEND, *machine.append])]
    words += ["-chardev", f"file,id=serial,path={_option(serial_log)},append=on", "-serial", "chardev:serial"]
    words += ["-qmp", f"unix:{control_name(machine)},server=on,wait=off"]
    for disk in machine.disks:
        words += _disk(disk)
    forwards = "".join(f",hostfwd=tcp:{each.address}:{each.port}-:{each.guest_port}" for each in machine.forwards)
    words += ["-netdev", f"user,id=user,ipv6=off{forwards}", "-device", "virtio-net-pci,netdev=user"]
    if machine.flood is not None:
        words += _flood(machine.flood)
    return [*words, "-device", "virtio-rng-pci"]


def control_name(machine: Machine) -> str:
    """The file name of the machine's control socket."""
    return f"{machine.name}.qmp"


def _numa(machine: Machine) -> list[str]:
    if machine.numa_nodes == 1:
        return []
    words: list[str] = []
    share = machine.cpus // machine.numa_nodes
    for node in range(machine.numa_nodes):
        first = node * share
        last = machine.cpus - 1 if node == machine.numa_nodes - 1 else first + share - 1
        words += ["-object", f"memory-backend-ram,id=memory{node},size={machine.memory_mib // machine.numa_nodes}M"]
        words += ["-numa", f"node,nodeid={node},cpus={first}-{last},memdev=memory{node}"]
    return words


def _disk(disk: Disk) -> list[str]:
    options = f"if=none,id={disk.serial},file={_option(disk.file)},format={disk.format},cache=unsafe"
    options += ",read-only=on" if disk.read_only else ""
    options += f",throttling.bps-total={disk.bytes_per_second}" if disk.bytes_per_second else ""
    return ["-drive", options, "-device", f"virtio-blk-pci,drive={disk.serial},serial={disk.serial}"]


def _flood(card: FloodCard) -> list[str]:
    local = f"local.type=inet,local.host={LOOPBACK},local.port={card.port}"
    remote = f"remote.type=inet,remote.host={LOOPBACK},remote.port={card.sender_port}"
    merged = "on" if card.merged_buffers else "off"
    device = f"virtio-net-pci,netdev=flood,mac={FLOOD_MAC},mrg_rxbuf={merged}"
    device += f",host_mtu={card.mtu}" if card.mtu > 1500 else ""
    return ["-netdev", f"dgram,id=flood,{local},{remote}", "-device", device]


def _option(path: Path) -> str:
    """The path as a value in QEMU's comma-separated options."""
    return str(path).replace(",", ",,")
