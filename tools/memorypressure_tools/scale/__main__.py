"""`make scale`: measures the operator at several cluster sizes and writes a report.

A size that was measured before with the same settings and the same sources is not measured again (--fresh does).
"""

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, Final

from memorypressure_agent.arguments import number_between
from memorypressure_tools.arguments import directory, whole_number
from memorypressure_tools.controlplane import ControlPlaneError
from memorypressure_tools.processes import ChildDiedError
from memorypressure_tools.scale import report
from memorypressure_tools.scale.fixture import REPOSITORY
from memorypressure_tools.scale.run import Plan, ScaleError, measure
from memorypressure_tools.toolcache import EXIT_MISSING, ToolMissingError

DIRECTORY: Final = REPOSITORY / "build" / "scale"
SIZES: Final = "100,1000,5000"
SECONDS_A_NODE: Final = 0.08
SECONDS_EACH: Final = 165.0
"""What a size takes, roughly, on two cores: for the time left that is shown."""
BYTES_A_NODE: Final = 2_200_000
"""Memory of etcd, API server, operator and agents together, measured."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scale",
        description="Measure the operator on simulated clusters: a real API server, the real operator process.",
        epilog="Results: build/scale/{scale.json,scale.md,scale.png} and one JSON a size. Exit codes: 0 all bars hold, "
        "1 a bar is missed or a measurement failed, 3 the control plane's programs cannot be built here.",
    )
    parser.add_argument("--sizes", default=SIZES, metavar="N,N,...", help=f"nodes of each cluster [{SIZES}]")
    parser.add_argument("--pods", type=whole_number(1, 500), default=22, metavar="N", help="pods a node [22]")
    parser.add_argument("--mode", default="Enforce", choices=("DryRun", "Enforce"), help="of the policy [Enforce]")
    parser.add_argument(
        "--rate", type=number_between(0.1, 1000), default=50.0, help="status changes a second under load [50]"
    )
    parser.add_argument(
        "--idle-seconds",
        type=number_between(1, 86_400),
        default=60.0,
        metavar="S",
        help="length of the idle phase [60]",
    )
    parser.add_argument(
        "--load-seconds",
        type=number_between(1, 86_400),
        default=30.0,
        metavar="S",
        help="length of the load phase [30]",
    )
    parser.add_argument(
        "--output", type=directory, default=DIRECTORY, metavar="DIR", help="where results go [build/scale]"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what was measured already")
    parser.add_argument("--no-moves", action="store_true", help="do not measure how fast nodes are moved")
    parser.add_argument(
        "--profile", action="store_true", help="also where the operator's time goes (slows it a little)"
    )
    parser.add_argument("--report-only", action="store_true", help="only write the report, from what is there")
    return parser


def _sizes(parser: argparse.ArgumentParser, text: str) -> list[int]:
    try:
        sizes = sorted({int(word) for word in text.split(",")})
    except ValueError:
        parser.error(f"--sizes {text}: write whole numbers with commas between them, for example {SIZES}")
    if not sizes or sizes[0] < 1 or sizes[-1] > 50_000:
        parser.error(f"--sizes {text}: a cluster has from 1 to 50000 nodes here")
    return sizes


def _sources() -> str:
    """A digest of what is measured and what measures it."""
    digest = hashlib.sha256()
    for folder in ("core", "operator", "tools/memorypressure_tools/scale", "crds"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if path.suffix in {".py", ".yaml"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _kept(path: Path, plan: Plan, sources: str) -> dict[str, Any] | None:
    """An earlier result of the same plan and sources."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = found.get("plan") == dataclasses.asdict(plan) and found.get("sources") == sources
    return found if same else None


def _seconds(plan: Plan) -> float:
    return SECONDS_EACH + plan.idle_seconds + plan.load_seconds + plan.nodes * SECONDS_A_NODE


def _check_memory(sizes: list[int]) -> None:
    needed = sizes[-1] * BYTES_A_NODE + (1 << 30)
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:") and int(line.split()[1]) * 1024 < needed:
            have = int(line.split()[1]) / (1 << 20)
            raise ScaleError(
                f"{sizes[-1]:,} nodes need about {needed / (1 << 30):.0f} GiB of memory, {have:.0f} GiB are available; "
                "name smaller --sizes"
            )


def main(arguments: list[str] | None = None) -> int:
    """0 when all bars hold."""
    parser = _parser()
    options = parser.parse_args(arguments)
    sizes = _sizes(parser, options.sizes)
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    sources = _sources()
    plans = [
        Plan(
            nodes=size,
            pods_a_node=options.pods,
            mode=options.mode,
            rate=options.rate,
            idle_seconds=options.idle_seconds,
            load_seconds=options.load_seconds,
            moves=not options.no_moves,
            profile=options.profile,
        )
        for size in sizes
    ]
    try:
        results = _measured(plans, output, sources, fresh=options.fresh, only_report=options.report_only)
    except ToolMissingError as error:
        print(f"scale: {error}", file=sys.stderr)
        return EXIT_MISSING
    except (ScaleError, ControlPlaneError, ChildDiedError) as error:
        print(f"scale: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nscale: stopped; sizes that were finished are kept", file=sys.stderr)
        return 130
    return _write(results, output, _command(options))


def _measured(plans: list[Plan], output: Path, sources: str, *, fresh: bool, only_report: bool) -> list[dict[str, Any]]:
    results = []
    todo = [plan for plan in plans if fresh or _kept(output / f"{plan.nodes}.json", plan, sources) is None]
    if todo and not only_report:
        _check_memory([plan.nodes for plan in todo])
    left = sum(map(_seconds, todo))
    for plan in plans:
        path = output / f"{plan.nodes}.json"
        if only_report:
            if not path.exists():
                raise ScaleError(f"{path} is not there: measure first, without --report-only")
            results.append(json.loads(path.read_text(encoding="utf-8")))
            continue
        kept = None if fresh else _kept(path, plan, sources)
        if kept is not None:
            print(f"scale: {plan.nodes:,} nodes: measured before, see {path}", flush=True)
            results.append(kept)
            continue
        print(f"scale: {plan.nodes:,} nodes; about {left / 60:.0f} min left for all sizes", flush=True)
        started = time.monotonic()

        def tell(text: str, started: float = started, plan: Plan = plan) -> None:
            print(f"scale: {plan.nodes:,} nodes [{time.monotonic() - started:5.0f} s] {text}", flush=True)

        result = measure(plan, tell) | {"sources": sources}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        results.append(result)
        left -= _seconds(plan)
    return results


def _command(options: argparse.Namespace) -> str:
    changed = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in sorted(vars(options).items())
        if name in {"mode", "pods", "rate", "idle_seconds", "load_seconds"} and value != _parser().get_default(name)
    ]
    words = f"make scale SIZES={options.sizes}"
    return words + (f' ARGS="{" ".join(changed)}"' if changed else "")


def _write(results: list[dict[str, Any]], output: Path, command: str) -> int:
    machine = {
        "CPUs:": os.cpu_count(),
        "kernel": platform.release(),
        "CPython": platform.python_version(),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / (1 << 30):.0f} GiB",
    }
    text = report.markdown(results, command, machine)
    (output / "scale.md").write_text(text, encoding="utf-8")
    document = {"machine": machine, "command": command, "results": results}
    (output / "scale.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    report.plot(results, output / "scale.png")
    print(text)
    print(f"scale: report in {output / 'scale.md'}, figures in scale.json, picture in scale.png")
    problems = report.above(results)
    for problem in problems:
        print(f"scale: missed: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
