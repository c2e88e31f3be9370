"""The cases of the files test_reporter*.py, which share a lab and run at the same time; `conftest` runs them."""

from typing import Final

from support.atonce import AtOnce
from support.pathlab import PathLab
from support.reporterlab import ReporterNode
from support.sentinellab import candidate
from support.sentinellab import orders as orders_of

from memorypressure.orders import Orders, decode
from memorypressure.spec_values import Mode

VICTIM: Final = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"

cases: Final[AtOnce[PathLab]] = AtOnce()


def dry_run(node: ReporterNode) -> Orders:
    """Orders of a policy in mode DryRun with one candidate."""
    return orders_of(candidate(VICTIM, "web-0"), mode=Mode.DRY_RUN, node_name=node.name)


def written_orders(node: ReporterNode) -> Orders | None:
    """What the node's reporter wrote for its sentinel; None: nothing."""
    try:
        return decode(node.machine.orders_path.read_bytes())
    except FileNotFoundError:
        return None
