"""Where fuzzing finds its seeds, and where it writes."""

import tempfile
from pathlib import Path
from typing import Final

FIXTURES: Final = Path(__file__).resolve().parents[1] / "fixtures"
SAMPLES: Final = Path(__file__).resolve().parents[2] / "crds" / "samples"
PAGE: Final = 4096

scratch: Final = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
