"""Where the lean process begins: it is run as a script, so it only sets `sys.path` and goes on in cached code.

Nothing is imported here that `lean` has stand-ins for, nor what imports it (json does): it would be there for good.
"""

import sys

*places, settings = sys.argv[1:]
sys.path[:0] = places
from memorypressure_agent.sentinel.lean import main  # noqa: E402

sys.exit(main(settings))
