"""What a policy's status says where something stands against the operator's writes, and that it can be written."""

from typing import Any

import pytest
from support.crdschema import refusals, schema
from support.onenode import World

from memorypressure.reasons import Reason
from memorypressure_operator.api import Answer
from memorypressure_operator.budget import POLL_SECONDS, UNWRITTEN_SECONDS
from memorypressure_operator.errors import ApiRefused


@pytest.fixture
def world() -> World:
    return World()


def refuse_ledgers(world: World, error: Exception, times: int = 10_000) -> None:
    left = [error] * times

    def before(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/configmaps/memory-pressure-ledger-p") and left:
            raise left.pop()

    world.cluster.before = before


IMMUTABLE = ApiRefused(422, "Invalid", "data: Forbidden: field is immutable", causes=("FieldValueForbidden",))
FORBIDDEN = ApiRefused(403, "Forbidden", 'configmaps "memory-pressure-ledger-p" is forbidden')
BROKEN = ApiRefused(500, "InternalError", "failed calling webhook")


@pytest.mark.parametrize("error", [IMMUTABLE, FORBIDDEN, BROKEN], ids=lambda error: error.reason)
def test_a_ledger_that_cannot_be_written_is_told_until_it_is_written_again(world: World, error: ApiRefused) -> None:
    refuse_ledgers(world, error)
    world.pressed = True
    world.run(40 + UNWRITTEN_SECONDS)
    assert world.cluster.evictions == []
    ready, budget = world.condition("Ready"), world.condition("BudgetAvailable")
    assert (ready["status"], ready["reason"]) == ("False", Reason.LEDGER_INVALID)
    for words in ("memory-pressure-ledger-p cannot be written", error.message, "delete it if it was made immutable"):
        assert words in ready["message"]
    assert (budget["status"], budget["reason"]) == ("False", Reason.LEDGER_INVALID)
    assert world.reasons.count(Reason.LEDGER_INVALID) >= 1
    world.pressed = False  # nothing else asks for a write
    world.cluster.before = lambda method, path: None
    world.run(15)
    assert world.condition("Ready")["status"] == world.condition("BudgetAvailable")["status"] == "True"


def test_a_ledger_that_was_made_immutable_is_told_before_anything_asks_for_a_write(world: World) -> None:
    world.run(40)
    kept = world.cluster.config_maps["memory-pressure-ledger-p"]
    kept["immutable"], kept["metadata"]["resourceVersion"] = True, "99999"
    refuse_ledgers(world, IMMUTABLE)
    world.run(POLL_SECONDS + 5)
    for kind in ("Ready", "BudgetAvailable"):
        condition = world.condition(kind)
        assert (condition["status"], condition["reason"]) == ("False", Reason.LEDGER_INVALID)
    assert "is marked immutable" in world.condition("Ready")["message"]
    del world.cluster.config_maps["memory-pressure-ledger-p"]
    world.run(POLL_SECONDS + 5)
    assert world.condition("Ready")["status"] == "True"


def test_a_write_of_the_ledger_that_fails_once_is_no_condition(world: World) -> None:
    refuse_ledgers(world, BROKEN, times=2)
    world.pressed = True
    for _ in range(60):
        world.run(1)
        assert world.condition("Ready")["status"] == "True"
    assert world.cluster.evictions == ["a"]


def test_whatever_count_a_node_reports_the_status_is_one_that_the_api_takes(world: World) -> None:
    world.kills_total = 5_000_000_000
    world.run(5)
    assert list(refusals(world.cluster.policies[0]["status"], schema("memorypressurepolicies.yaml", "status"))) == []
    assert world.cluster.policies[0]["status"]["exposure"]["worstCaseHour"] == 2**31 - 1


def test_a_status_of_which_an_older_definition_drops_a_part_is_written_once_a_change(world: World) -> None:
    keep = world.cluster._policy_status

    def older(name: str, status: dict[str, Any]) -> Answer:
        return keep(name, status | {"nodes": {key: value for key, value in status["nodes"].items() if key != "armed"}})

    world.cluster._policy_status = older  # type: ignore[method-assign]
    world.pressed = True
    world.run(10)
    before = len(statuses(world))
    world.run(60)
    assert len(statuses(world)) - before <= 6, "the eviction and what it leads to"
    world.pressed = False
    world.run(150)
    before = len(statuses(world))
    world.run(60)
    assert len(statuses(world)) == before
    world.cluster.policies[0]["status"]["nodes"].pop("selected")
    world.loop.recheck_policies()
    world.run(5)
    assert world.cluster.policies[0]["status"]["nodes"]["selected"] == 1, "what somebody took away comes back"


def statuses(world: World) -> list[str]:
    return [path for _, path in world.cluster.writes if "/memorypressurepolicies/" in path]
