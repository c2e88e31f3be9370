"""Runs targets under libFuzzer (atheris), which keeps inputs that reach code not reached before and changes those.

    python -m fuzz.engine --runs 20000                      # all targets in one process
    python -m fuzz.engine --target orders --seconds 600     # one of them for ten minutes

A finding ends the run with code 77 and a file crash-... in --findings; --replay shows it again. Its first byte chooses
the target; the rest belongs in tests/fixtures/fuzz/<target>/, where it stays mended. What a run kept is in --corpus and
begins the next one. Where there is no atheris (it is made for Linux on x86_64) inputs are changed blindly.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path
from typing import Final

from memorypressure_tools.arguments import whole_number

REPOSITORY: Final = Path(__file__).resolve().parents[2]
MOST_BYTES: Final = 20_000
FOUND: Final = 77
INSTRUMENTED: Final = ["memorypressure", "memorypressure_agent"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="fuzz", description=__doc__.partition("\n")[0] if __doc__ else None)
    made.add_argument("--target", help="one target, by its name in targets.TARGETS (default: all, mixed)")
    made.add_argument("--runs", type=whole_number(1, 10**12), default=-1, help="end after so many inputs")
    made.add_argument("--seconds", type=whole_number(0, 10**7), default=0, help="end after so long; 0 (default): never")
    made.add_argument(
        "--seed", type=whole_number(0, 2**32 - 1), default=0, help="of the random numbers; 0: another one each time"
    )
    made.add_argument("--corpus", type=Path, help="directory of inputs, kept for the next run (default: seeds only)")
    made.add_argument("--findings", type=Path, default=REPOSITORY / "build" / "fuzz", help="where crash-... files go")
    made.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="only check these inputs again")
    return made


def chosen(target: str | None, targets: Iterable[str]) -> list[str]:
    """The names of the targets to run; ends with 2 and the known ones where that one is not among them."""
    known = list(targets)
    if target is not None and target not in known:
        parser().error(f"--target {target}: there is no such target; there are: {', '.join(known)}")
    return known if target is None else [target]


def main() -> int:
    """0 when nothing was found; libFuzzer itself ends the process otherwise."""
    arguments = parser().parse_args()
    if arguments.replay:
        return _replay(arguments)
    try:
        import atheris
    except ImportError:
        return _blind(arguments)

    with atheris.instrument_imports(include=INSTRUMENTED):
        from fuzz.mutation import mutated
        from fuzz.targets import TARGETS

    names = chosen(arguments.target, TARGETS)

    def check(data: bytes) -> None:
        if data:
            TARGETS[names[data[0] % len(names)]].check(data[1:])

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        rng = random.Random(seed)
        head, body = data[:1] or b"\0", data[1:]
        if rng.random() < 0.01:
            head = bytes([rng.randrange(len(names))])
        if TARGETS[names[head[0] % len(names)]].is_text and rng.random() < 0.7:
            return head + mutated(rng, body)[: longest - 1]
        return head + bytes(atheris.Mutate(body, longest - 1))

    corpus = arguments.corpus or arguments.findings / f"corpus-{arguments.target or 'all'}"
    corpus.mkdir(parents=True, exist_ok=True)
    arguments.findings.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        for index, seed in enumerate(TARGETS[name].seeds()):
            (corpus / f"seed-{name}-{index}").write_bytes(bytes([number]) + seed[: MOST_BYTES - 1])
    words = [
        f"-runs={arguments.runs}",
        f"-max_total_time={arguments.seconds}",
        f"-seed={arguments.seed}",
        f"-max_len={MOST_BYTES}",
        f"-artifact_prefix={arguments.findings}/",
        "-len_control=0",
        "-timeout=120",  # of the wall clock: a busy machine stops a process for long
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *words, str(corpus)], check, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


def _blind(arguments: argparse.Namespace) -> int:
    """The same changes to the seeds, kept nowhere, in the same proportion of targets."""
    from fuzz.mutation import mutated
    from fuzz.targets import TARGETS

    print("atheris is not there: inputs are changed blindly, without looking at what code they reach", flush=True)
    rng = random.Random(arguments.seed or None)
    names = chosen(arguments.target, TARGETS)
    seeds = {name: list(TARGETS[name].seeds()) for name in names}
    end = time.monotonic() + arguments.seconds if arguments.seconds else None
    done = 0
    while done != arguments.runs and (end is None or time.monotonic() < end):
        name = rng.choice(names)
        data = mutated(rng, rng.choice(seeds[name]))[:MOST_BYTES]
        try:
            TARGETS[name].check(data)
        except Exception:  # noqa: BLE001 -- whatever it is, it is a finding
            arguments.findings.mkdir(parents=True, exist_ok=True)
            file = arguments.findings / f"crash-{sha1(data).hexdigest()}"
            file.write_bytes(bytes([names.index(name)]) + data)
            print(f"{traceback.format_exc()}{name}: written to {file}", flush=True)
            return FOUND
        done += 1
    print(f"{done} inputs, nothing found")
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    from fuzz.targets import TARGETS

    names = chosen(arguments.target, TARGETS)
    for file in arguments.replay:
        data = file.read_bytes()
        name = names[data[0] % len(names)] if data else names[0]
        print(f"{file}: {name}: {data[1:200]!r}", flush=True)
        TARGETS[name].check(data[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
