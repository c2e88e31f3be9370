"""The sentinel's settings, all from its command line; orders can lower what they allow, never raise it."""

from dataclasses import dataclass

from memorypressure_agent.host.sources import HostRoots


@dataclass(frozen=True, slots=True)
class SentinelSettings:
    """What a sentinel runs with."""

    roots: HostRoots
    orders_path: str | None
    """The orders file, written by the reporter. None: observe only."""
    journal_path: str
    """The journal; in production on a tmpfs that the reporter mounts read-only."""
    max_kills_per_hour: int = 6
    """Kills in any 60 minutes of boot time, over restarts. 0: never kills."""
    min_cooldown_seconds: int = 10
    """Shortest time between two kills, whatever orders say."""
    dry_run_only: bool = False
    """Orders of mode Enforce are carried out as DryRun."""
    own_pod_uid: str = ""
    """UID of the agent's own pod, which is never a candidate. Empty: not in a pod."""
    realtime: bool = False
    """Ask for SCHED_FIFO. It lets the sentinel's own page faults use half of the reserve (kernel 6.3 and later)."""
    watchdog_seconds: int = 60
    """The process ends when one of its two threads made no progress for so long while the other one did."""
    log_json: bool = False
    """Log lines as JSON objects."""
