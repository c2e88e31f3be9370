"""Results of the lab's runs, made up."""

from memorypressure_tools.lab.arms import ARMS, Killer
from memorypressure_tools.lab.figures import FIGURES
from memorypressure_tools.lab.scenarios import SCENARIOS
from memorypressure_tools.lab.series import Cell, Result, recipe


def result(cell: Cell, **figures: float) -> Result:
    """A run of today's definition: every figure 0 but those given."""
    known = {figure.key: 0.0 for figure in FIGURES} | {"kill_after_start_seconds": None, "deaths": []} | figures
    scenario, arm = SCENARIOS[cell.scenario], ARMS[cell.arm]
    ours = "abc" if arm.killer is Killer.OURS else ""
    return Result(*(cell.scenario, cell.arm, cell.number), "6.1.0", recipe(scenario, arm), ours, 40.0, known)
