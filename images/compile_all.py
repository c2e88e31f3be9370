"""Compiles the standard library, the libraries and ours in an image that is being built; ends with 1 where it cannot.

Unchecked bytecode: the root is read-only and the sources never change, so nothing is compared or compiled at start.
By force: what this process itself imported has bytecode by now that is bound to times which the image does not keep.
"""

import compileall
import py_compile
import sys
import sysconfig

for place in ("/opt/memory-pressure/lib", sysconfig.get_path("stdlib")):
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(place, quiet=1, force=True, invalidation_mode=mode):
        sys.exit(f"not everything below {place} could be compiled")
