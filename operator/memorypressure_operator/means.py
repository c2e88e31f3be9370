"""What acts on pods are done with, the same for evictions, what becomes of them, and clean-ups."""

from collections.abc import Callable
from dataclasses import dataclass

from memorypressure_operator.api import Api
from memorypressure_operator.budget import Budgets
from memorypressure_operator.events import EventWriter


@dataclass(frozen=True, slots=True)
class Means:
    """`holds` is the Lease's deadline, asked right before every act."""

    api: Api
    budgets: Budgets
    events: EventWriter
    holds: Callable[[], bool]
    clock: Callable[[], float]
