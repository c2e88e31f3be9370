"""What the tests of the sentinel's kills share: three pods, two of them candidates, and orders that grant kills.

The machine is fake (an idle capture with the recorded flood's values put in), the sentinel is the console script, pods
are real processes in a real cgroup v2 tree (`conftest`). On hybrid hosts that tree has no memory figures, so victims
are ordered by Priority and Youngest here; relief on a fixture tree is tested in tests/unit.
"""

from support.sentinellab import MEMORY_USER, PAUSE, RealPods, candidate, grant_for, orders

from memorypressure.orders import Orders

VICTIM = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
BYSTANDER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"
NOT_PLANNED = "5d7e2c90-2222-4a7e-9f0e-2f8d6a3c1b33"
SETTLED_SECONDS = 0.4
"""Forty rounds of 10 ms: what was to be killed would be dead by then."""
CANDIDATES = (candidate(VICTIM, "victim", 0), candidate(BYSTANDER, "bystander", 1000))
EVERYTHING = {
    f"{VICTIM}/5a9d",
    f"{VICTIM}/c0de01",
    f"{VICTIM}/c0de02",
    f"{BYSTANDER}/c0de03",
    f"{NOT_PLANNED}/c0de04",
}


def granted(incarnation: str, *, ceiling: int = 2) -> Orders:
    """Orders to stop one of the candidates, with leave for so many kills."""
    return orders(*CANDIDATES, grant=grant_for(incarnation, ceiling=ceiling))


def fill(pods: RealPods) -> None:
    """Starts the three pods."""
    pods.add(VICTIM, "5a9d", PAUSE)
    pods.add(VICTIM, "c0de01", MEMORY_USER, count=2)
    pods.add(VICTIM, "c0de02", MEMORY_USER)
    pods.add(BYSTANDER, "c0de03", MEMORY_USER)
    pods.add(NOT_PLANNED, "c0de04", MEMORY_USER)
