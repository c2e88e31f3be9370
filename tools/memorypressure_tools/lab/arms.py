"""Who watches over the guest: nobody, our agent in its profiles, or one of the killers that people use today."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final


class Killer(StrEnum):
    """The program; all but OURS are Debian's packages, as packaged."""

    NONE = "none"
    OURS = "ours"
    EARLYOOM = "earlyoom"
    NOHANG = "nohang"
    OOMD = "oomd"
    SYSTEMD_OOMD = "systemd-oomd"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of guarding a guest. `options` are the program's words, or the lines of its configuration that differ."""

    name: str
    title: str
    killer: Killer = Killer.NONE
    options: tuple[str, ...] = ()
    rules: str = ""
    """oomd: its configuration."""
    sees_processes: bool = False
    """Ours: whether the agent shares the host's PID namespace, as profile KillFast does (process_mrelease)."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Ours: what differs from the default policy in `spec`."""
    min_free_factor: float = 1.0

    @property
    def digest(self) -> str:
        """Changes with every value that could change a result."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


_ALL_NODES: Final[Mapping[str, Any]] = {"triggers": {"reserve": {"zoneWatermark": {"nodes": "AllNodes"}}}}

_HALF: Final[Mapping[str, Any]] = {"triggers": {"reserve": {"zoneWatermark": {"marginPercent": 0}}}}

_NOHANG_FAIR: Final = (
    "min_sleep=0.1",
    "max_sleep=0.1",
    "soft_threshold_min_mem=10 %",
    "hard_threshold_min_mem=5 %",
    "soft_threshold_min_swap=100 %",
)
"""It acts when memory and swap are both below: however much swap is free it shall act, as earlyoom does by -s 100."""

_OOMD_PACKAGED: Final = """\
{"rulesets": [
  {"name": "pressure", "detectors": [["pressure above 60 for 30 s",
     {"name": "pressure_above",
      "args": {"cgroup": "kubepods/burstable", "resource": "memory", "threshold": "60", "duration": "30"}},
     {"name": "memory_reclaim", "args": {"cgroup": "kubepods/burstable", "duration": "10"}}]],
   "actions": [{"name": "kill_by_memory_size_or_growth", "args": {"cgroup": "kubepods/burstable/*"}}]},
  {"name": "low swap", "detectors": [["free swap below 10 percent",
     {"name": "swap_free", "args": {"threshold_pct": "10"}}]],
   "actions": [{"name": "kill_by_swap_usage", "args": {"cgroup": "kubepods/burstable/*"}}]}
]}
"""
"""Debian's /etc/oomd/oomd.json with the pods' cgroup in the place of the desktop's slices."""
_OOMD_FAIR: Final = """\
{"rulesets": [
  {"name": "pressure", "detectors": [["pressure above 5",
     {"name": "pressure_above",
      "args": {"cgroup": "kubepods/burstable", "resource": "memory", "threshold": "5", "duration": "0"}}]],
   "actions": [{"name": "kill_by_memory_size_or_growth", "args": {"cgroup": "kubepods/burstable/*"}}]}
]}
"""


_ARMS: Final = (
    Arm("none", "nobody; the kernel alone"),
    Arm("ours-kill", "our agent, profile Kill", Killer.OURS),
    Arm("ours-kill-rt", "our agent, profile Kill with realtime", Killer.OURS, ("--realtime",)),
    Arm("ours-killfast", "our agent, profile KillFast", Killer.OURS, sees_processes=True),
    Arm(
        "ours-killfast-rt",
        "our agent, profile KillFast with realtime",
        Killer.OURS,
        ("--realtime",),
        sees_processes=True,
    ),
    Arm(
        "ours-killfast-rt-allnodes",
        "the same, trigger reserve with nodes: AllNodes",
        Killer.OURS,
        ("--realtime",),
        sees_processes=True,
        policy=_ALL_NODES,
    ),
    Arm(
        "ours-killfast-rt-half",
        "the same, trigger reserve without the default's margin: half of min",
        Killer.OURS,
        ("--realtime",),
        sees_processes=True,
        policy=_HALF,
    ),
    Arm(
        "ours-min-free",
        "our agent, profile KillFast with realtime, min_free_kbytes raised 7.6-fold",
        Killer.OURS,
        ("--realtime",),
        sees_processes=True,
        min_free_factor=7.6,
    ),
    Arm("earlyoom", "earlyoom as packaged", Killer.EARLYOOM, ("-r", "3600")),
    Arm("earlyoom-fair", "earlyoom at its best", Killer.EARLYOOM, ("-r", "0", "-p", "-m", "10,5", "-s", "100")),
    Arm("nohang", "nohang as packaged", Killer.NOHANG),
    Arm("nohang-fair", "nohang at its best", Killer.NOHANG, _NOHANG_FAIR),
    Arm(
        "oomd",
        "oomd with Debian's rules: pressure over 60 % for 30 s",
        Killer.OOMD,
        ("--interval", "1"),
        _OOMD_PACKAGED,
    ),
    Arm("oomd-fair", "oomd at its best: over 5 %, at once", Killer.OOMD, ("--interval", "1"), _OOMD_FAIR),
    Arm(
        "systemd-oomd",
        "systemd-oomd with Debian's values: 60 % for 20 s on the pods",
        Killer.SYSTEMD_OOMD,
        ("60%", "20s"),
    ),
    Arm("systemd-oomd-fair", "systemd-oomd at its best: 5 % for 1 s on the pods", Killer.SYSTEMD_OOMD, ("5%", "1s")),
    Arm("min-free", "no killer, min_free_kbytes raised 7.6-fold", min_free_factor=7.6),
)

ARMS: Final[Mapping[str, Arm]] = {each.name: each for each in _ARMS}
OURS: Final = "ours-killfast-rt"
PEERS: Final = tuple(arm.name for arm in _ARMS if arm.killer not in (Killer.NONE, Killer.OURS))
