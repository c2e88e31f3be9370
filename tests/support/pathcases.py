"""The cases of test_grants.py and test_path_bad_input.py, which share a lab and its operator; `conftest` runs them."""

from typing import Final

from support.atonce import AtOnce
from support.pathlab import PathLab

cases: Final[AtOnce[PathLab]] = AtOnce()
