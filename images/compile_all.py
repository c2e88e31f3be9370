"""Compiles the standard library, the libraries and ours in an image that is being built, and removes itself.

Ends with 1 where something cannot be compiled.

Unchecked bytecode: the root is read-only and the sources never change, so nothing is compared or compiled at start.
By force: what this process itself imported has bytecode by now that is bound to times which the image does not keep.
"""

import compileall
import py_compile
import sys
import sysconfig
from pathlib import Path

LIBRARIES, STDLIB = "/opt/memory-pressure/lib", sysconfig.get_path("stdlib")
MODE = py_compile.PycInvalidationMode.UNCHECKED_HASH
for place in (LIBRARIES, STDLIB):
    if not compileall.compile_dir(place, quiet=1, force=True, invalidation_mode=MODE):
        sys.exit(f"not everything below {place} could be compiled")
# The sentinel runs with -OO, which has bytecode of its own: ours, and of the standard library what it can need.
if Path(f"{LIBRARIES}/memorypressure_agent").is_dir():
    for place, levels in (
        *((f"{LIBRARIES}/{package}", 10) for package in ("memorypressure", "memorypressure_agent")),
        (STDLIB, 0),
        *((f"{STDLIB}/{package}", 10) for package in ("collections", "encodings", "json", "re")),
    ):
        if not compileall.compile_dir(place, maxlevels=levels, quiet=1, force=True, invalidation_mode=MODE, optimize=2):
            sys.exit(f"not everything below {place} could be compiled for -OO")
Path(__file__).unlink()
