"""The flood lab: small virtual machines under a UDP flood, guarded by our agent, by others, by nobody.

Builds the guest once (Debian's kernel and packages; kept in the cache), makes the runs that are still missing, and
writes a report: README.md, results.json and pictures. Interrupted, it goes on where it stopped.
"""

import argparse
import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from memorypressure_tools.arguments import whole_number
from memorypressure_tools.guest.images import ImageError
from memorypressure_tools.guest.programs import CompileError
from memorypressure_tools.guest.shell import GuestError
from memorypressure_tools.lab.arms import ARMS, OURS, Killer
from memorypressure_tools.lab.scenarios import SCENARIOS
from memorypressure_tools.lab.series import Cell, Result, Results, SeriesError, cells, recipe
from memorypressure_tools.toolcache import EXIT_MISSING, ToolMissingError

OUTPUT: Final = Path(__file__).resolve().parents[3] / "build" / "lab"
KERNELS: Final = ("6.1", "6.12")
EXIT_FAILED: Final = 1
EXIT_BAD_INPUT: Final = 2
FLOOD: Final = "flood"
CONTROL: Final = "control-pressure"
SHORT_ATTEMPTS: Final = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 1 a run or a check failed, 2 bad input, 3 something is missing on this machine."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.short and (given.arms or given.scenarios):
        parser.error("--short makes one flood and one control with our agent: it takes no --arms and no --scenarios")
    try:
        where = given.output / given.kernel
        if given.report_only:
            return _report(Results(where / "results.jsonl"), given)
        with _alone(where):
            results = Results(where / "results.jsonl")
            return _short(given) if given.short else _series(results, given)
    except ToolMissingError as error:
        print(f"lab: missing: {error}", file=sys.stderr)
        return EXIT_MISSING
    except OSError as error:
        print(f"lab: error: {error.filename or given.output}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED
    except (SeriesError, ImageError, CompileError) as error:
        print(f"lab: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("lab: stopped; the same command goes on from here", file=sys.stderr)
        return 130


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """SeriesError while another `make lab` writes there: two would overwrite each other's runs."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = "another make lab writes there; wait for it, or give --output DIR"
            raise SeriesError(f"{directory}: {said}") from None
        yield
    finally:
        os.close(descriptor)


def _series(results: Results, given: argparse.Namespace) -> int:
    """Makes what is missing, then reports."""
    scenarios = given.scenarios or list(SCENARIOS)
    wanted = list(cells(scenarios, given.arms, given.runs))
    lab = _Lab(given)
    results.agent, results.kernel = lab.agent, lab.kernel
    if results.outdated():
        said = "results are of other definitions, or of another state of the agent or the kernel, and are left out"
        print(f"lab: {results.outdated()} {said}", flush=True)
    began = time.monotonic()
    while left := results.left(wanted):
        cell = left[0]
        if given.at_most_seconds and time.monotonic() - began + results.seconds_of([cell]) > given.at_most_seconds:
            print(f"lab: {len(left)} runs are left; the time is used up", flush=True)
            break
        minutes = results.seconds_of(left) / 60
        print(
            f"lab: run {len(wanted) - len(left) + 1} of {len(wanted)}, about {minutes:.0f} min left: "
            f"{cell.scenario} / {cell.arm} #{cell.number}",
            flush=True,
        )
        results.add(lab.run(cell))
    given_up = [cell for cell in wanted if results.voids(cell) and cell not in {each.cell for each in results.usable()}]
    for cell in given_up:
        print(f"lab: given up: {cell.scenario} / {cell.arm} #{cell.number}", file=sys.stderr)
    _report(results, given)
    return EXIT_FAILED if given_up else 0


def _short(given: argparse.Namespace) -> int:
    """One flood with our agent, one control: the right pod must die in the first, none in the second."""
    lab = _Lab(given)
    for attempt in range(1, SHORT_ATTEMPTS + 1):
        flood = lab.run(Cell(FLOOD, OURS, 0)).figures
        if flood is not None and (flood["kills"] or flood["below_reserve_seconds"]):
            break
        said = "was void" if flood is None else "never made the reserve short"
        print(f"lab: the flood of attempt {attempt} of {SHORT_ATTEMPTS} {said}", flush=True)
    for attempt in range(1, SHORT_ATTEMPTS + 1):
        control = lab.run(Cell(CONTROL, OURS, 0)).figures
        if control is not None:
            break
        print(f"lab: the control of attempt {attempt} of {SHORT_ATTEMPTS} was void", flush=True)
    if flood is None or control is None:
        return EXIT_FAILED
    checks = {
        "flood: a pod was killed": flood["kills"] > 0,
        "flood: it was the right one": flood["innocent_kills"] == 0,
        "flood: the kernel's OOM killer had nothing to do": flood["kernel_oom_kills"] == 0,
        "flood: the victim's memory came back": flood["kill_to_memory_back_ms"] is not None,
        "control: no pod was killed": control["kills"] == 0,
    }
    for text, holds in checks.items():
        print(f"lab: {'ok' if holds else 'FAILED'}  {text}", flush=True)
    return 0 if all(checks.values()) else EXIT_FAILED


class _Lab:
    """What the runs of a series share, made when the first one is due."""

    def __init__(self, given: argparse.Namespace) -> None:
        from memorypressure_tools.lab import onerun, rootimage

        self._runs = given.output / given.kernel / "runs"
        self._made = onerun.parts(given.kernel)
        self.agent = rootimage.agent_digest(self._made.agent)
        self.kernel = self._made.kernel.release

    def run(self, cell: Cell) -> Result:
        """Makes one run; its files stay, a void one's too."""
        from memorypressure_tools.lab import onerun
        from memorypressure_tools.lab.figures import run_figures
        from memorypressure_tools.lab.rundata import VoidRunError

        scenario, arm = SCENARIOS[cell.scenario], ARMS[cell.arm]
        directory = self._runs / f"{cell.scenario}_{cell.arm}_{cell.number:02d}"
        began = time.monotonic()
        figures, void = None, ""
        try:
            onerun.run(scenario, arm, self._made, directory)
            figures = run_figures(directory, scenario)
        except (GuestError, VoidRunError) as error:
            void = str(error)
        result = Result(
            scenario=cell.scenario,
            arm=cell.arm,
            number=cell.number,
            kernel=self.kernel,
            recipe=recipe(scenario, arm),
            agent=self.agent if arm.killer is Killer.OURS else "",
            took_seconds=round(time.monotonic() - began, 1),
            figures=figures,
            void=void,
        )
        print(f"lab:   {_said(result)}", flush=True)
        return result


def _said(result: Result) -> str:
    """One line about a run."""
    figures = result.figures
    if figures is None:
        return f"VOID after {result.took_seconds:.0f} s: {result.void}"
    killed = ", ".join(
        f"{death['pod']} {'by the kernel' if death['byKernel'] else 'killed'}" for death in figures["deaths"]
    )
    return (
        f"{result.took_seconds:.0f} s: {figures['atomic_failures']} failed atomic allocations, worst stall "
        f"{figures['worst_stall_ms']:.0f} ms, PSI full {figures['psi_full_seconds']:.1f} s, lowest "
        f"{figures['lowest_of_min']:.0%} of min; {killed or 'nobody killed'}"
    )


def _report(results: Results, given: argparse.Namespace) -> int:
    from memorypressure_tools.lab.report import write_report

    shown = results.reportable() if given.report_only else results.usable()
    if not shown:
        print(f"lab: no results in {results.path}; nothing to report", file=sys.stderr)
        return EXIT_BAD_INPUT if given.report_only else 0
    where = given.output / given.kernel
    write_report(where, shown, where / "runs", machine())
    print(f"lab: report of {len(shown)} runs: {where / 'README.md'}", flush=True)
    return 0


def machine() -> dict[str, str]:
    """What the runs were made on."""
    return {
        "cpus": f"{os.cpu_count()}",
        "hostKernel": platform.release(),
        "emulation": "QEMU TCG, 2 virtual CPUs, no KVM",
    }


def _names(known: Sequence[str], what: str) -> "type[argparse.Action]":
    """An option that takes names, separated by commas or spaces; unknown ones are refused with the list of known."""

    class Names(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: object,
            option_string: str | None = None,
        ) -> None:
            names = str(values).replace(",", " ").split()
            for name in names:
                if name not in known:
                    parser.error(f"{option_string}: no {what} {name!r}; there are: {', '.join(known)}")
            setattr(namespace, self.dest, list(dict.fromkeys(names)))

    return Names


def _parser() -> argparse.ArgumentParser:
    scenarios = "\n".join(f"  {name:<22} {each.title}" for name, each in SCENARIOS.items())
    arms = "\n".join(f"  {name:<26} {each.title}" for name, each in ARMS.items())
    parser = argparse.ArgumentParser(
        prog="make lab",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog=(
            f"scenarios:\n{scenarios}\n\narms:\n{arms}\n\nexamples:\n"
            "  make lab RUNS=1\n"
            '  make lab RUNS=15 SCENARIOS=flood ARMS="none ours-killfast-rt"\n'
            "  make lab KERNEL=6.12 RUNS=3 SCENARIOS=flood\n"
            "  make lab ARGS=--report-only\n"
        ),
    )
    parser.add_argument(
        "--runs", type=whole_number(1, 1000), default=1, help="runs of every arm in every scenario (default: 1)"
    )
    parser.add_argument("--arms", action=_names(list(ARMS), "arm"), default=[], help="default: those of each scenario")
    parser.add_argument(
        "--scenarios", action=_names(list(SCENARIOS), "scenario"), default=[], help="default: all of them"
    )
    parser.add_argument(
        "--kernel", choices=KERNELS, default=KERNELS[0], help="series of Debian's kernel (default: 6.1)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, metavar="DIR", help="default: build/lab")
    parser.add_argument("--short", action="store_true", help="one flood with our agent and one control, checked")
    parser.add_argument("--report-only", action="store_true", help="no run; the report of what is there")
    parser.add_argument(
        "--at-most-seconds",
        type=whole_number(1, 86_400),
        default=0,
        metavar="N",
        help="begin no run that would end after this time",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
