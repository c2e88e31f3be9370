"""The sentinel's parts as they are wired: what a machine lacks is told to its end, and no half of a process goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.reporting import link_state
from support.sentinellab import CAPTURES
from support.shapenode import put

from memorypressure_agent.host.clocks import boot_ns, read_boot_id, unix_ns
from memorypressure_agent.host.journal import Journal
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_agent.host.sources import HostRoots
from memorypressure_agent.reporter.conditions import conditions_of
from memorypressure_agent.reporter.metrics import NodeCollector
from memorypressure_agent.reporter.shape import complaint
from memorypressure_agent.reporter.view import View
from memorypressure_agent.sentinel import process
from memorypressure_agent.sentinel.service import Service
from memorypressure_agent.sentinel.settings import SentinelSettings

MEMINFO = b"MemTotal: 1000000 kB\nMemAvailable: 500000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"


class BareMachine:
    """zoneinfo and meminfo and nothing else: no swap, PSI, NUMA, cgroups, event counters; and a sentinel on it."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        for name in ("proc", "sys", "cgroup"):
            (directory / name).mkdir()
        put(self.proc / "zoneinfo", (CAPTURES / "zoneinfo-6.1-guest-1node-idle.txt").read_bytes())
        put(self.proc / "meminfo", MEMINFO)
        roots = HostRoots(str(self.proc), str(directory / "sys"), str(directory / "cgroup"))
        self.journal = Journal(str(directory / "journal"), read_boot_id())
        self.service = Service(SentinelSettings(roots, None, self.journal.path), self.journal)

    def told(self) -> View:
        """What the reporter reads of a sentinel that samples anew."""
        self.service._sampler.round()
        self.service._write_status()
        with JournalReader(self.journal.path) as reader:
            reader.refresh()
            record = reader.status()
            assert record is not None
            assert complaint(record.values) == ""
            return View(record.values, reader.grants(), unix_ns(), boot_ns())


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[BareMachine]:
    made = BareMachine(tmp_path)
    yield made
    made.service._sources.close()
    made.journal.close()


def metrics_of(view: View) -> dict[str, dict[frozenset[str], float]]:
    """Values by metric and the values of its labels."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(lambda: view, link_state))
    found: dict[str, dict[frozenset[str], float]] = {}
    for family in parse_text(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.values())] = sample.value
    return found


def test_each_source_that_the_machine_lacks_is_in_status_condition_and_metrics_with_its_reason(
    bare: BareMachine,
) -> None:
    view = bare.told()
    absent = {
        "swap": ("NoSwap", "no swap: SwapTotal is 0"),
        "psi_node": ("NotPresent", "PSI is compiled out of the kernel, or off"),
        "psi_pods": ("NotPresent", "no kubepods cgroup was found"),
        "vmstat": ("NotPresent", "/proc/vmstat: no such file"),
        "vmstat_node0": ("NotPresent", "a kernel without NUMA"),
    }
    ready = conditions_of(view, link_state(), ())[0]
    assert (ready.type, ready.status) == ("Ready", "True")
    sources = {source["name"]: source for source in view.status["sources"]}
    for name, (reason, words) in absent.items():
        source = sources.pop(name)
        assert (source["up"], source["absent"], source["reason"]) == (False, True, reason), name
        assert words in source["message"], name
        assert f"{name} ({source['message']})" in ready.message
    assert [source["up"] for source in sources.values()] == [True] * 3
    assert set(sources) == {"boost", "meminfo", "zoneinfo"}
    metrics = metrics_of(view)
    assert metrics["memorypressure_agent_source_absent"] == {
        frozenset((name, reason)): 1 for name, (reason, _) in absent.items()
    }
    up = metrics["memorypressure_agent_source_up"]
    assert up == {frozenset((name,)): 1 for name in ("sentinel", "apiserver", "boost", "meminfo", "zoneinfo")}
    assert metrics["memorypressure_agent_capability"][frozenset(("PSI",))] == 0
    assert "memorypressure_psi_stalled_seconds_total" not in metrics, "and nothing is 0 that was not read"
    assert "memorypressure_kernel_oom_kills_total" not in metrics
    assert (view.status["psi"], view.status["vmstat"]) == ({"node": None, "pods": None}, None)


@pytest.mark.parametrize("file", ["zoneinfo", "meminfo"])
def test_a_source_that_is_there_and_not_understood_is_a_fault_in_all_three(bare: BareMachine, file: str) -> None:
    put(bare.proc / file, b"garbage\n")
    view = bare.told()
    (source,) = [each for each in view.status["sources"] if each["name"] == file]
    assert (source["up"], source["absent"], source["reason"]) == (False, False, "NotUnderstood")
    assert "line 1" in source["message"]
    metrics = metrics_of(view)
    assert metrics["memorypressure_agent_source_up"][frozenset((file,))] == 0
    assert not [labels for labels in metrics["memorypressure_agent_source_absent"] if file in labels]
    ready = conditions_of(view, link_state(), ())[0]
    assert ready.status == ("False" if file == "zoneinfo" else "True")
    assert source["message"] in ready.message
    if file == "zoneinfo":
        assert (view.status["zones"], view.status["lowest"]) == (None, None)
        assert "memorypressure_zone_free_bytes" not in metrics
    else:
        assert view.status["memory"] is None


def test_a_helper_that_ended_ends_the_process_with_the_reason(
    bare: BareMachine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("stop_collecting", "share_the_interpreter_quickly"):  # they are for a process of its own
        monkeypatch.setattr(process, name, lambda: None)
    helper = bare.service._helper

    def ended() -> None:
        helper.failure = RuntimeError("no such figure")

    monkeypatch.setattr(helper, "start", ended)
    assert bare.service.loop() == 1
    assert "the helper thread ended: RuntimeError('no such figure')" in capsys.readouterr().err


def test_what_the_machine_lacks_is_in_the_log_once_its_sources_were_read(
    bare: BareMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "give_back_startup_pages",
        "reserve_heap",
        "use_rare_code",
    ):  # for a process of its own
        monkeypatch.setattr(process, name, lambda: None)
    monkeypatch.setattr(process, "lock_memory", lambda: "not allowed")
    monkeypatch.setattr(process, "bring_in_code", lambda: "the code is not read in: too old")
    said: list[str] = []
    monkeypatch.setattr(bare.service._helper, "log", lambda reason, message: said.append(f"{reason}: {message}"))
    for _ in range(3):
        bare.service._sampler.round()
    bare.service._settle()
    assert "Settled: memory is not locked: not allowed; the code is not read in: too old" in said
    monkeypatch.setattr(process, "lock_memory", lambda: "")
    bare.service._settle()
    assert "Settled: memory is locked; the code is not read in: too old" in said
    assert bare.service._capabilities["MemoryLocked"] == "the code is not read in: too old"
    assert [line for line in said if line.startswith("CapabilityMissing: PSI: ") and "PSI is compiled out" in line]


@pytest.mark.parametrize("short", [True, False])
def test_while_a_node_is_short_journal_and_lock_are_asked_without_their_paths_and_vmstat_is_not_opened_anew(
    bare: BareMachine, monkeypatch: pytest.MonkeyPatch, short: bool
) -> None:
    service = bare.service
    service._sampler.round()
    asked: list[tuple[str, bool]] = []

    def answer(name: str) -> Callable[..., bool]:
        return lambda *, look_up: asked.append((name, look_up)) or True

    def last_round(_waits: object) -> int:
        service._stopping = True
        service._sampler._is_short = short
        return 0

    for name in ("stop_collecting", "share_the_interpreter_quickly"):
        monkeypatch.setattr(process, name, lambda: None)
    for name in ("start", "stop"):
        monkeypatch.setattr(service._helper, name, lambda: None)
    monkeypatch.setattr(service._sampler, "round", last_round)
    monkeypatch.setattr(service._sampler.journal, "in_place", answer("journal"))
    monkeypatch.setattr(service._lock, "free_for_us", answer("lock"))
    monkeypatch.setattr(service._sources, "reopen_vmstat", lambda: asked.append(("vmstat", True)))
    service.loop()
    assert asked == [("lock", True), ("journal", not short), ("lock", not short)], "the first one before any round"
    asked.clear()
    service._event_counters()
    assert asked == ([] if short else [("vmstat", True)])
