"""What is fuzzed: every parser that reads the host or a file, with seeds and the property that holds for any input.

A target raises AssertionError when the property is broken; any other exception is a finding too. A parser may refuse
what it does not understand with its documented error, and what it returns must be what a plain reading finds.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from fuzz import flight_files, journal_files, kernel_files, own_files
from fuzz.places import FIXTURES, SAMPLES
from support import shapes
from support.reporting import sentinel_status, under_pressure

from memorypressure_agent.kernel_log.failures import Failures, encode

__all__ = ["FIXTURES", "TARGETS", "Target"]


@dataclass(frozen=True)
class Target:
    """`check` takes any bytes; `seeds` are inputs that are as they should be."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    is_text: bool = True


def _lines(**values: object) -> bytes:
    return "".join(f"{name} {value}\n" for name, value in values.items()).encode()


_PSI: Final = b"some avg10=1.53 avg60=0.87 avg300=0.24 total=11740917\n"
_MEMINFO: Final = (
    "MemTotal:       16303428 kB\nMemFree:          388164 kB\nMemAvailable:    9388164 kB\n"
    "SwapTotal:       1048572 kB\nSwapFree:         786432 kB\n"
    "HugePages_Total:       2\nHugepagesize:       2048 kB\nHugetlb:            4096 kB\n"
)
_KERNEL_LOG: Final = (
    b"<4>[   13.216639] ksoftirqd/0: page allocation failure: order:0, mode:0xa20(GFP_ATOMIC), nodemask=(null)\n"
    b"<4>[   28.952331] warn_alloc: 769 callbacks suppressed\n"
    b"<4>[   28.952336] SLUB: Unable to allocate memory on node -1, gfp=0xa20(GFP_ATOMIC)\n"
)

TARGETS: Final[Mapping[str, Target]] = {
    "zoneinfo": Target(kernel_files.zoneinfo, kernel_files.zoneinfos),
    "node_vmstat": Target(
        kernel_files.node_vmstat,
        lambda: iter([shapes.node_vmstat(shapes.two_nodes(), 0)[:400].rpartition(b"\n")[0] + b"\n"]),
    ),
    "vmstat": Target(
        kernel_files.vmstat,
        lambda: iter(
            [_lines(nr_free_pages=97027, allocstall_dma=0, allocstall_normal=41, pgalloc_normal=9, oom_kill=2)]
        ),
    ),
    "meminfo": Target(
        kernel_files.meminfo, lambda: iter([_MEMINFO.encode(), _MEMINFO.encode().replace(b"Hugetlb", b"HugeTLB")])
    ),
    "psi": Target(kernel_files.psi, lambda: iter([_PSI, _PSI + _PSI.replace(b"some", b"full")])),
    "memory_stat": Target(
        kernel_files.memory_stat,
        lambda: iter([_lines(anon=4096, file=8192, kernel=512, sock=0), _lines(anon=1, kernel_stack=2, slab=3)]),
    ),
    "numa_stat": Target(
        kernel_files.numa_stat, lambda: iter([b"anon N0=4096 N1=8192\nfile N0=0 N1=5\nkernel_stack N0=16384 N1=0\n"])
    ),
    "cgroup_events": Target(kernel_files.cgroup_events, lambda: iter([b"populated 1\nfrozen 0\n", b"populated 0\n"])),
    "cgroup_procs": Target(kernel_files.cgroup_procs, lambda: iter([b"1\n4000123\n0\n", b""])),
    "cgroup_names": Target(
        kernel_files.cgroup_names,
        lambda: iter(
            [
                b"kubepods-burstable-pod8f1f6d1e_6ad0_4a7e_9f0e_2f8d6a3c1b11.slice",
                b"pod8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11",
                b"cri-containerd-0123456789abcdef.scope",
                b"crio-conmon-0123456789abcdef.scope",
                b"0123456789abcdef",
            ]
        ),
    ),
    "orders": Target(own_files.orders, own_files.order_files),
    "recording": Target(own_files.recording, own_files.recordings),
    "policy": Target(own_files.policy, lambda: (file.read_bytes() for file in sorted(SAMPLES.glob("*.yaml")))),
    "journal": Target(journal_files.journal, journal_files.journals, is_text=False),
    "status": Target(
        journal_files.status_object,
        lambda: (json.dumps(each).encode() for each in (sentinel_status(), under_pressure())),
    ),
    "records": Target(journal_files.records, journal_files.record_objects),
    "flight": Target(flight_files.flight, flight_files.flights, is_text=False),
    "kernel_log": Target(
        kernel_files.kernel_log, lambda: iter([_KERNEL_LOG, _KERNEL_LOG.replace(b"ATOMIC", b"KERNEL")])
    ),
    "allocation_failures": Target(own_files.allocation_failures, lambda: iter([encode(Failures(1, 2, 3), 7)])),
}
