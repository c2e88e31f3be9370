"""What the sentinel's hot path costs: parsing, gate, triggers; import time and memory of its modules.

    .venv/bin/python tests/bench/parse.py [--json | --table]

Medians of many rounds on the machine it runs on. Prints a Markdown table on a terminal, else one JSON object a line.
"""

import argparse
import importlib.util
import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from support import naive, shapes  # noqa: E402
from support.benchrows import Row, show  # noqa: E402

from memorypressure.gate import gate_thresholds, parse_node_vmstat_free  # noqa: E402
from memorypressure.sampling import Drains, headroom_pages, next_period_ns, observe  # noqa: E402
from memorypressure.signals import MemInfo, Psi, PsiLine, Sample, parse_meminfo, parse_psi  # noqa: E402
from memorypressure.spec import parse_policy  # noqa: E402
from memorypressure.spec_values import NodesScope, Trigger, TriggerType, ZoneWatermark  # noqa: E402
from memorypressure.triggers import advance, initial, watched_lines  # noqa: E402
from memorypressure.zones import Line, ZoneInfoReader  # noqa: E402

CAPTURES = TESTS / "fixtures" / "captures"
SAMPLE_POLICY = TESTS.parent / "crds" / "samples" / "default.yaml"
NODE_VMSTAT = Path("/sys/devices/system/node/node0/vmstat")
READING = ("zones", "gate", "signals", "sampling", "triggers")
DECIDING = ("engine", "grants", "ladder", "plans", "records", "spec", "victims")
ROUNDS = 2000
PROCESSES = 11
PAGE = 4096


def microseconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median time of one call."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        work()
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def parsing() -> Iterator[Row]:
    """The remembering reader against its limits, and the naive line splitting beside it."""
    for name in ("6.18-host-1node-idle", "6.1-guest-1node-below-half"):
        text = (CAPTURES / f"zoneinfo-{name}.txt").read_bytes()
        reader = ZoneInfoReader(PAGE)
        size = f"{len(text) / 1000:.1f} kB"
        yield Row(f"zoneinfo, 2 CPUs, {name} ({size})", microseconds(partial(reader.parse, text)), "us", 60)
        yield Row(f"  the same, split line by line ({size})", microseconds(partial(naive.read, text), 300), "us")
    text = shapes.zoneinfo(shapes.many_cpus())
    reader = ZoneInfoReader(PAGE)
    size = f"{len(text) / 1000:.0f} kB"
    yield Row(f"zoneinfo, 256 CPUs, 2 nodes ({size})", microseconds(partial(reader.parse, text), 200) / 1000, "ms", 2)
    yield Row(f"  the same, split line by line ({size})", microseconds(partial(naive.read, text), 10) / 1000, "ms")
    yield Row("meminfo", microseconds(lambda: parse_meminfo(Path("/proc/meminfo").read_bytes()), 500), "us")
    pressure = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    yield Row("memory pressure, parse alone", microseconds(lambda: parse_psi(pressure)), "us")


def gate() -> Iterator[Row]:
    """One node's gate: the read of this machine's file where there is one, and the check against the threshold."""
    info = ZoneInfoReader(PAGE).parse((CAPTURES / "zoneinfo-6.18-host-1node-idle.txt").read_bytes())
    watched = ((Line.ATOMIC_RESERVE, 0), (Line.LOW, 0))
    ((_, threshold),) = gate_thresholds(info, watched)
    text = shapes.node_vmstat(shapes.one_node(), 0)
    yield Row(
        "gate check of a node, without the read", microseconds(lambda: parse_node_vmstat_free(text) > threshold), "us"
    )
    yield Row(
        "gate thresholds from a full reading, per node", microseconds(lambda: gate_thresholds(info, watched)), "us"
    )
    if not NODE_VMSTAT.exists():
        print(f"no {NODE_VMSTAT} on this machine: the read is not measured")
        return
    buffer = bytearray(16384)
    descriptor = os.open(NODE_VMSTAT, os.O_RDONLY)

    def read_and_check() -> bool:
        length = os.preadv(descriptor, [buffer], 0)
        return parse_node_vmstat_free(bytes(memoryview(buffer)[:length])) > threshold

    yield Row("gate read and check of a node", microseconds(read_and_check), "us", 20)
    os.close(descriptor)


def decisions() -> Iterator[Row]:
    """Triggers of the default policy and of a full one, on two NUMA nodes, calm and below their lines."""
    default = parse_policy(yaml.safe_load(SAMPLE_POLICY.read_text("utf-8"))).triggers
    full = tuple(
        Trigger(
            f"zone{number}",
            TriggerType.ZONE_WATERMARK,
            ZoneWatermark(tuple(Line)[number % 4], NodesScope.ANY_NODE, number, 9000, 10000),
        )
        for number in range(16)
    )
    calm = shapes.two_nodes()
    pressed = shapes.Machine(
        calm.kernel,
        {
            node: tuple(shapes.ZoneShape(zone.name, zone.managed_pages, 0, zone.min_pages) for zone in zones)
            for node, zones in calm.nodes.items()
        },
    )
    for name, triggers in (("default policy", default), ("16 zone triggers", full)):
        for state_name, machine in (("calm", calm), ("below all lines", pressed)):
            yield Row(f"triggers, one sample, 2 nodes, {name}, {state_name}", _advance_us(triggers, machine), "us")
    info = ZoneInfoReader(PAGE).parse(shapes.zoneinfo(calm))
    watched = watched_lines(default)
    drains = observe(Drains(), info, 0)

    def choose() -> int:
        seen = observe(drains, info, 10_000_000)
        rooms = tuple((node.number, headroom_pages(info, node.number, watched)) for node in info.counted_nodes)
        return next_period_ns(seen, rooms, 10_000_000, PAGE, 50_000, watching=False)

    yield Row("choice of the next period, 2 nodes", microseconds(choose), "us")


def _advance_us(triggers: tuple[Trigger, ...], machine: shapes.Machine) -> float:
    info = ZoneInfoReader(PAGE).parse(shapes.zoneinfo(machine))
    memory = MemInfo(256 << 30, 1 << 30, 0, 0, 0)
    psi = Psi(PsiLine(0.0, 0.0, 0.0, 0), PsiLine(0.0, 0.0, 0.0, 0))
    state = initial(triggers)
    times = []
    for number in range(1, ROUNDS + 1):
        sample = Sample(number * 10_000_000, info, memory, psi, psi)
        start = time.perf_counter_ns()
        state = advance(triggers, state, sample)
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def processes() -> Iterator[Row]:
    """Import time and memory of the sentinel's modules in fresh processes, beside an interpreter without them."""
    reading = ", ".join(f"memorypressure.{name}" for name in READING)
    deciding = ", ".join(f"memorypressure.{name}" for name in DECIDING)
    kinds = {
        "bare interpreter": "pass",
        "zones, gate, signals, sampling, triggers": f"import {reading}",
        "these and the rest of the core that the sentinel needs": f"import {reading}, {deciding}",
    }
    if importlib.util.find_spec("memorypressure_agent.sentinel.main"):
        kinds["the whole sentinel"] = "import memorypressure_agent.sentinel.main"
    for name, statement in kinds.items():
        results = [_fresh(statement) for _ in range(PROCESSES)]
        if statement != "pass":
            yield Row(f"import: {name}", statistics.median(result[0] for result in results), "ms")
        yield Row(f"resident memory: {name}", statistics.median(result[1] for result in results) / 1024, "MiB")


def _fresh(statement: str) -> tuple[float, float]:
    """Milliseconds of the statement and resident KiB after it, in a process of its own."""
    program = (
        "import time; start = time.perf_counter_ns()\n"
        f"{statement}\n"
        "spent = time.perf_counter_ns() - start\n"
        "status = open('/proc/self/status').read()\n"
        "print(spent / 1e6, status.split('VmRSS:')[1].split()[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True, timeout=60)
    spent, resident = done.stdout.split()
    return float(spent), float(resident)


def main() -> int:
    """0 when every value is within its limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line, also on a terminal")
    form.add_argument("--table", action="store_true", help="a Markdown table, also in a pipe")
    arguments = parser.parse_args()
    table = True if arguments.table else False if arguments.json else None
    return show(itertools.chain(parsing(), gate(), decisions(), processes()), table=table)


if __name__ == "__main__":
    sys.exit(main())
