"""The cases of test_reporter.py and test_reporter_pace.py, which share a lab; `conftest` runs them."""

from typing import Final

from support.atonce import AtOnce
from support.pathlab import PathLab

cases: Final[AtOnce[PathLab]] = AtOnce()
