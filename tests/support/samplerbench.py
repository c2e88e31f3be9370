"""A sampler in the test's own process: on a machine of files, by a clock that only the test moves, without a helper."""

from collections.abc import Iterator
from pathlib import Path

from support.cgrouptree import MIB, CgroupTree, Memory
from support.sentinellab import CAPTURES, candidate, grant_for, orders

from memorypressure import ladder
from memorypressure.orders import encode
from memorypressure.reasons import Reason
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.clocks import boot_ns
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.sources import HostRoots, HostSources
from memorypressure_agent.sentinel.candidates import Candidates
from memorypressure_agent.sentinel.clocks import Clocks
from memorypressure_agent.sentinel.helper import Helper
from memorypressure_agent.sentinel.log import Log
from memorypressure_agent.sentinel.orders_file import OrdersFile
from memorypressure_agent.sentinel.readings import Readings
from memorypressure_agent.sentinel.sampler import Sampler
from memorypressure_agent.sentinel.settings import SentinelSettings
from memorypressure_tools.floodplayer import FakeNode, Reading

MS = 1_000_000
SECOND = 1_000 * MS
UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
BOOT = "1" * 36
BELOW_RESERVE_PAGES = 150


class Bench:
    """A sampler on a fake machine and a clock that only the test moves; its helper never runs."""

    def __init__(self, directory: Path, *, ticking: bool = True, dry_run_only: bool = True, now_ns: int = 0) -> None:
        self.now = now_ns or boot_ns()  # the journal's first beat is the real clock's
        self.unix_ns = 1_800_000_000 * SECOND
        self.machine = FakeNode(directory / "machine", CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt")
        tree = CgroupTree(directory / "cgroup")
        self.tree = tree
        tree.add_pod(UID)
        tree.add_container(UID, "c0de01", Memory(anon=300 * MIB))
        pods = PodsTree(str(directory / "cgroup"))
        self.journal = Journal(str(directory / "journal"), BOOT)
        past = ladder.durable(ladder.initial(self.now, unknown_past=False))
        self.journal.write_state({"ladder": past, "pending": None})
        self.orders_path = orders_path = directory / "orders"
        orders_path.write_bytes(encode(orders(candidate(UID, "a"), grant=grant_for(self.journal.incarnation))))
        roots = HostRoots(str(self.machine.proc), str(self.machine.sys), str(directory / "cgroup"))
        settings = SentinelSettings(roots, str(orders_path), self.journal.path, dry_run_only=dry_run_only)
        helper = self.helper = Helper(
            Candidates(pods, "", self.clock), Log(as_json=False), lambda: None, lambda: "", can_release=False
        )
        self.readings = Readings(HostSources(roots, clock=self.clock), self.clock)
        if not ticking:
            self.readings.ticks.run = lambda *_words: None  # type: ignore[method-assign]
        self.orders_file = OrdersFile(str(orders_path))
        self.sampler = Sampler(
            settings, self.readings, self.journal, helper, self.orders_file,
            Clocks(self.clock, lambda: self.unix_ns, lambda: 0), 4096,
        )  # fmt: skip

    def clock(self) -> int:
        return self.now

    def round(self, milliseconds: int, free_pages: int) -> int:
        self.now += milliseconds * MS
        self.machine.show(Reading(0.0, free_pages, 0, 634))
        return self.sampler.round()

    def read_figures(self, *uids: str) -> None:
        """Takes these for candidates, and reads their figures as the helper would."""
        self.helper.candidates.wanted = frozenset(uids)
        self.helper.candidates.refresh(hold=False)

    @property
    def reason(self) -> Reason:
        """Of the last decision."""
        view = self.sampler.view
        assert view is not None
        return view.result.decision.reason

    def close(self) -> None:
        self.orders_file.close()
        self.journal.close()
        self.machine.close()


def pressed(bench: Bench) -> None:
    """Five samples below the reserve, 20 ms apart: more than a kill needs."""
    for _ in range(5):
        bench.round(20, BELOW_RESERVE_PAGES)


def calm_bench(directory: Path) -> Iterator[Bench]:
    """For a fixture: one that may kill, after three calm rounds, with its pod's figures read."""
    made = Bench(directory, dry_run_only=False)
    for _ in range(3):
        made.round(1000, 90_000)
    made.read_figures(UID)
    yield made
    made.close()
