"""Where the lean process begins: it is run as a script, so it only sets `sys.path` and goes on in cached code."""

import json
import sys

given = json.loads(sys.argv[1])
sys.path[:0] = given["path"]
from memorypressure_agent.sentinel.lean import main  # noqa: E402

sys.exit(main(given["settings"]))
