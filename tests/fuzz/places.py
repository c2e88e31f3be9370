"""Where fuzzing finds its seeds, and where it writes."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

FIXTURES: Final = Path(__file__).resolve().parents[1] / "fixtures"
SAMPLES: Final = Path(__file__).resolve().parents[2] / "crds" / "samples"
PAGE: Final = 4096


def _scratch() -> Path:
    """A directory of this process in memory. libFuzzer ends a process without exit handlers; the next one cleans up."""
    base = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
    for left in base.glob("fuzz-*-*"):
        owner = left.name.split("-")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    made = tempfile.mkdtemp(prefix=f"fuzz-{os.getpid()}-", dir=base)
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


scratch: Final = _scratch()
