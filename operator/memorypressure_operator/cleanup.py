"""`memorypressure-operator cleanup`: no node keeps our taint, and no running operator puts it on again.

It takes the Lease away from a running operator and keeps it for a while: an uninstall deletes the operator's Deployment
only afterwards, and would otherwise leave what was tainted in between. Operators of another installation, as after an
uninstall and an install, need not wait for that.
"""

import logging
import time
from collections.abc import Callable

import msgspec

from memorypressure_operator import tainter
from memorypressure_operator.api import Api
from memorypressure_operator.errors import ApiUnreachable, OperatorError
from memorypressure_operator.leader import Leader
from memorypressure_operator.paging import listed
from memorypressure_operator.settings import Settings
from memorypressure_operator.views import decode_node

log = logging.getLogger(__name__)

_TRIES = 10


def run(settings: Settings, api: Api, leader: Leader, sleep: Callable[[float], None] = time.sleep) -> int:
    """0 when no node carries our taint and nobody puts it on; 1 when something is left, which the log names."""
    try:
        former = _seized(settings, leader, sleep)
    except OperatorError as error:
        log.error("lease %s cannot be taken, no taint is touched: %s", settings.lease_name, error)
        return 1
    left = remove_taints(settings, api)
    if former:
        last = settings.renew_deadline_seconds + settings.request_timeout_seconds
        log.info("%s held the lease and may act for %.0f s more; looking again then", former, last)
        sleep(last)
        left = remove_taints(settings, api)
    held, others = settings.cleanup_hold_seconds, "nobody else either"
    try:
        if leader.offer():
            others = "one that is installed anew may at once"
    except OperatorError as error:
        log.warning("lease %s: one that is installed anew has to wait for it, too: %s", settings.lease_name, error)
    name = settings.lease_name
    log.info("uninstall now: this operator does not act for %.0f s more, %s (lease %s)", held, others, name)
    return 1 if left else 0


def _seized(settings: Settings, leader: Leader, sleep: Callable[[float], None]) -> str:
    for _ in range(_TRIES):
        former = leader.seize(settings.cleanup_hold_seconds)
        if former is not None:
            return former
        sleep(settings.backoff_seconds)
    raise ApiUnreachable(f"it was written by somebody else {_TRIES} times")


def remove_taints(settings: Settings, api: Api) -> int:
    """Takes our taint off every node; how many may still carry it, which the log names."""
    left = 0
    try:
        for raw in listed(api, "/api/v1/nodes", limit=settings.page_size):
            left += not _untainted(api, raw)
    except (OperatorError, msgspec.MsgspecError) as error:
        log.error("nodes cannot be listed: %s", error)
        left += 1
    return left


def _untainted(api: Api, raw: bytes) -> bool:
    node = decode_node(raw)
    try:
        outcome = tainter.apply(api, node, None)
    except OperatorError as error:
        log.error("node %s: taint not removed: %s", node.name, error)
        return False
    if outcome is tainter.TaintOutcome.DONE:
        log.info("node %s: taint removed", node.name)
    return outcome is not tainter.TaintOutcome.CONTENDED
