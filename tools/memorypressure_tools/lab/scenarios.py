"""What happens in a guest: its memory and swap, the pods and what they do, the flood. Frozen, named, listed by --help.

Every figure here belongs to the recipe: a changed one makes another `digest`, and runs of different digests are never
put into one table. Sizes are those of `docs/benchmarks`; they were found by trying, the reasons stand beside them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

GUEST_MEMORY_MIB: Final = 512
FIRST_PORT: Final = 20000


class Swap(StrEnum):
    """Where anonymous memory can go."""

    DISK = "disk"
    """A disk throttled to `swap_bytes_per_second`: reclaim succeeds, slowly."""
    ZRAM = "zram"
    NONE = "none"


class Flood(StrEnum):
    """What the host sends into the guest's network card."""

    NONE = "none"
    UDP = "udp"
    TCP = "tcp"


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod with one container. `command` is for the guest's load program; `{seconds}` is the time that is sampled.

    `priority` and `request_mib` are the pod's, as the API server would have them; oom_score_adj follows from the
    request as the kubelet computes it.
    """

    name: str
    command: str
    priority: int = 1000
    request_mib: int = 64
    victim: bool = False
    """Whether it is right to stop this pod when something has to be stopped."""
    limit_mib: int = 0
    """memory.max of the container; 0: none."""
    restarts: bool = False
    """Starts again in a new container of the same pod when it was killed, as restartPolicy Always does."""

    @property
    def uid(self) -> str:
        """A UID as the API server makes them, the same in every run."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()
        return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"

    def oom_score_adj(self, memory_mib: int) -> int:
        """What the kubelet gives a Burstable container (pkg/kubelet/qos/policy.go, 1.37)."""
        return max(3, min(999, 1000 - 1000 * self.request_mib // memory_mib))


@dataclass(frozen=True, slots=True)
class Scenario:
    """One recipe. Times are seconds of the guest; the flood starts `fill_seconds` after the pods."""

    name: str
    title: str
    pods: tuple[Pod, ...]
    is_control: bool = False
    """Nothing may be killed in it."""
    flood: Flood = Flood.UDP
    memory_mib: int = GUEST_MEMORY_MIB
    numa_nodes: int = 1
    low_memory_mib: int = 0
    """Memory below 4 GiB; the rest lies above and makes zone Normal. 0: all of it is below."""
    swap: Swap = Swap.DISK
    swap_mib: int = 512
    swap_bytes_per_second: int = 5_000_000
    swappiness: int = 100
    min_free_kib: int = 0
    """vm.min_free_kbytes; 0: what the kernel chose."""
    sampled_seconds: int = 26
    fill_seconds: int = 6
    flood_seconds: int = 18
    frames_per_second: int = 30_000
    payload_bytes: int = 400
    kernel_options: str = ""
    huge_pages: bool = False
    """Every fault may take a huge page and compact memory for it."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the default policy in `spec`, merged into it."""

    @property
    def digest(self) -> str:
        """Changes with every value that could change a result."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def victims(self) -> frozenset[str]:
        """Names of the pods of which one may be stopped."""
        return frozenset(pod.name for pod in self.pods if pod.victim)


STREAM: Final = Pod("stream", "stream /data/data 300")
"""Endless sequential reads: clean page cache that reclaim finds at once."""
SINK: Final = Pod("sink", "sink 16 20000 3072 1500 400 {seconds}", request_mib=128)
"""16 sockets of 6 MB (truesize), drained for 0.4 s every 1.9 s: about 96 MB of pages come and go by interrupt."""
TCP_SINK: Final = Pod("sink", "tcpsink 16 20000 6144 1500 400 {seconds}", request_mib=128)
HOG: Final = Pod("hog", "hog 340", priority=0, victim=True)
"""Writes to random pages of 340 MiB: more than stays resident beside the others, so something is always swapped."""


def _hog(mib: int, **changes: Any) -> Pod:
    return Pod(**{"name": "hog", "command": f"hog {mib}", "priority": 0, "victim": True, **changes})


_SOON: Final[Mapping[str, Any]] = {"limits": {"cooldownSeconds": 10}}

FLOODS: Final = (
    Scenario("flood", "UDP flood, swap on a slow disk: the main scenario", (STREAM, SINK, HOG)),
    Scenario(
        "flood-zram",
        "the same with swap in zram, whose swap-out itself takes from the reserve",
        (STREAM, SINK, _hog(460)),
        swap=Swap.ZRAM,
        swappiness=150,
    ),
    Scenario(
        "flood-numa",
        "two NUMA nodes of 384 MB, swap on a slow disk",
        (STREAM, SINK, _hog(530)),
        memory_mib=768,
        numa_nodes=2,
        swap_mib=700,
        min_free_kib=5000,  # and no THP: khugepaged would raise min sevenfold, and nothing would fail
        kernel_options="transparent_hugepage=never",
    ),
    Scenario(
        "flood-normal",
        "zones DMA32 and Normal both populated and open, swap on a slow disk",
        (STREAM, SINK, _hog(530)),
        memory_mib=768,
        low_memory_mib=512,
        swap_mib=700,
        min_free_kib=5000,
        kernel_options="transparent_hugepage=never",
    ),
    Scenario(
        "flood-cache",
        "no swap: what can be reclaimed is page cache",
        (STREAM, Pod("stream2", "stream /data/data 600"), SINK, _hog(240)),
        swap=Swap.NONE,
    ),
    Scenario("flood-tcp", "TCP instead of UDP, swap on a slow disk", (STREAM, TCP_SINK, HOG), flood=Flood.TCP),
    Scenario(
        "flood-priorities",
        "three hogs of different priority: the least important one must go first",
        (
            STREAM,
            SINK,
            _hog(125, name="hog-least", priority=0),
            _hog(125, name="hog-middle", priority=1000, victim=False),
            _hog(125, name="hog-most", priority=5000, victim=False),
        ),
    ),
    Scenario(
        "flood-refill",
        "the killed pod is restarted and fills up again: under one grant it is killed once",
        (STREAM, SINK, _hog(340, restarts=True)),
        sampled_seconds=60,
        flood_seconds=48,
        policy=_SOON,
    ),
    Scenario(
        "flood-futile",
        "three replicas: the load of a killed one fills the next: two kills, then none for half an hour",
        (
            STREAM,
            SINK,
            HOG,
            _hog(340, name="hog-next", command="hog 340 0 /pods/hog/cgroup.events"),
            _hog(340, name="hog-last", command="hog 340 0 /pods/hog-next/cgroup.events"),
        ),
        sampled_seconds=46,
        flood_seconds=36,
        policy=_SOON,
    ),
)

LEAK: Final = Scenario(
    "leak",
    "a pod that grows by 16 MB/s, no swap, no flood",
    (Pod("stream", "stream /data/data 100"), Pod("leak", "hog 2000 40000", priority=0, victim=True)),
    flood=Flood.NONE,
    swap=Swap.NONE,
    sampled_seconds=32,
)

LARGE_LEAK: Final = Scenario(
    "leak-4g",
    "the same on a machine of 4 GB, as fast as the emulated machine can",
    (Pod("stream", "stream /data/data 400"), Pod("leak", "hog 8000", priority=0, victim=True)),
    flood=Flood.NONE,
    memory_mib=4096,
    swap=Swap.NONE,
    sampled_seconds=45,
)

CONTROLS: Final = (
    Scenario(
        "control-pressure",
        "the main scenario's pods without the flood",
        (STREAM, SINK, HOG),
        is_control=True,
        flood=Flood.NONE,
    ),
    Scenario("control-flood", "the flood without other use of memory", (SINK,), is_control=True),
    Scenario(
        "control-cache",
        "the flood on a node whose memory is full of clean page cache: reclaim keeps up",
        (STREAM, Pod("stream2", "stream /data/data 600"), SINK, _hog(60, victim=False)),
        is_control=True,
        swap=Swap.NONE,
    ),
    Scenario(
        "control-streaming",
        "two readers of more data than memory, no swap",
        (Pod("stream", "stream /data/data"), Pod("stream2", "stream /data/data 600"), _hog(100, victim=False)),
        is_control=True,
        flood=Flood.NONE,
        swap=Swap.NONE,
    ),
    Scenario(
        "control-zram",
        "anonymous memory that is swapped to zram and back all the time",
        (STREAM, _hog(460, victim=False)),
        is_control=True,
        flood=Flood.NONE,
        swap=Swap.ZRAM,
        swappiness=150,
    ),
    Scenario(
        "control-limit",
        "a pod that stalls at its own limit on a node with free memory",
        (STREAM, _hog(160, victim=False, limit_mib=100)),
        is_control=True,
        flood=Flood.NONE,
    ),
    Scenario(
        "control-fragmentation",
        "memory in small pieces, and allocations of large ones",
        (STREAM, Pod("fragments", "fragment 300"), Pod("huge", "huge 64 {seconds}")),
        is_control=True,
        flood=Flood.NONE,
        huge_pages=True,
    ),
)

SCENARIOS: Final[Mapping[str, Scenario]] = {each.name: each for each in (*FLOODS, LEAK, LARGE_LEAK, *CONTROLS)}
