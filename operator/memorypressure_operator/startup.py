"""Before anything runs: wait until the API server answers and serves the three kinds, and say what is missing."""

import logging
import random
import threading
from collections.abc import Callable

from memorypressure_operator.api import GROUP_PATH, Api
from memorypressure_operator.errors import ApiRefused, ApiUnreachable

log = logging.getLogger(__name__)

KINDS = ("memorypressurepolicies", "nodememorystates", "nodememoryplans")
_REPEAT_SECONDS = 30.0


def obstacle(api: Api) -> str:
    """What keeps the operator from starting, as a sentence with what to do; "" when nothing does."""
    try:
        served = {item.get("name") for item in api.get(GROUP_PATH).json().get("resources") or ()}
    except ApiUnreachable as error:
        return f"waiting for the API server: {error}"
    except ApiRefused as refusal:
        if refusal.not_found:
            served = set()
        elif refusal.status == 401:
            return (
                f"waiting for valid credentials: {api.server} answered 401 to the token from {api.credentials.origin}: "
                "it has expired or belongs to another cluster; replace it, it is read again"
            )
        elif refusal.status == 403:
            return (
                f"waiting for rights: {api.server} answered 403 to the identity from {api.credentials.origin}: "
                f"{refusal.message}; bind the operator's ClusterRole to it"
            )
        else:
            return f"waiting for the API server: {refusal}"
    missing = [f"{kind}.memorypressure.dev" for kind in KINDS if kind not in served]
    if missing:
        return f"waiting for CustomResourceDefinitions: {', '.join(missing)} not served; install the chart's CRDs"
    return ""


def wait(
    api: Api,
    stopping: threading.Event,
    first_seconds: float,
    limit_seconds: float,
    on_obstacle: Callable[[str], None],
    clock: Callable[[], float],
) -> bool:
    """True when everything is there, False when `stopping` came first. Tells each new obstacle, and again each 30 s."""
    pause, told, told_at = first_seconds, "", 0.0
    while not stopping.is_set():
        problem = obstacle(api)
        on_obstacle(problem)
        if not problem:
            return True
        if problem != told or clock() - told_at >= _REPEAT_SECONDS:
            log.warning("%s", problem)
            told, told_at = problem, clock()
        stopping.wait(pause * random.uniform(0.7, 1.3))  # noqa: S311  jitter
        pause = min(pause * 2, limit_seconds)
    return False
