"""From the sentinel's status to `NodeMemoryState.status`: conditions, texts, limits of the CRD, JSON patches."""

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.crdschema import refusals, schema
from support.reporting import (
    BOOT_NS,
    INCARNATION,
    MIB,
    POLICY,
    UNIX_NS,
    Object,
    grants,
    link_state,
    sentinel_status,
    source,
    trigger,
    under_pressure,
    view,
    zone,
)
from support.sentinellab import candidate, grant_for
from support.sentinellab import orders as orders_of

from memorypressure.grants import Beat
from memorypressure.reasons import Reason
from memorypressure.spec_values import Mode
from memorypressure_agent.reporter import report, shape
from memorypressure_agent.reporter.conditions import Condition, conditions_from, conditions_of
from memorypressure_agent.reporter.view import View

STATUS_SCHEMA = schema("nodememorystates.yaml", "status")
ORDERS = orders_of(candidate("pod-1", "p"), policy_name=POLICY)


def conditions(seen: View, link: Any = None, before: tuple[Condition, ...] = ()) -> dict[str, Condition]:
    found = conditions_of(seen, link or link_state(ORDERS), before)
    return {condition.type: condition for condition in found}


def status_of(
    seen: View, link: Any = None, actions: list[Object] | None = None, episodes: list[Object] | None = None
) -> Any:
    link = link or link_state(ORDERS)
    now = conditions_of(seen, link, ())
    return report.body(seen, link, now, actions or [], episodes or [])


def orders_with(**changes: Any) -> Object:
    return {**sentinel_status()["orders"], **changes}


def decision(reason: Reason, message: str = "why") -> Object:
    return {"reason": reason.value, "message": message, "cause": "NoPressure"}


@pytest.mark.parametrize(
    ("seen", "link", "status", "reason", "text"),
    [
        (view(), link_state(ORDERS), "True", Reason.ACCEPTED, "policy default (generation 3) in mode Enforce"),
        (
            view(sentinel_status(orders=orders_with(standing="None", policyName=None, policyGeneration=None))),
            link_state(),
            "True",
            Reason.NO_ORDERS,
            "observing only: no policy is in force",
        ),
        (
            view(sentinel_status(orders=orders_with(standing="Invalid", message="version: is 9"))),
            link_state(ORDERS),
            "False",
            Reason.ORDERS_INVALID,
            "the sentinel refuses its orders: version: is 9",
        ),
        (
            view(),
            link_state(reason=Reason.ORDERS_INVALID, message="orders not understood: plan.spec.pods: must be a list"),
            "False",
            Reason.ORDERS_INVALID,
            "plan.spec.pods: must be a list",
        ),
        (
            view(),
            link_state(ORDERS, reason=Reason.ACTION_FAILED, message="the orders file cannot be removed: [Errno 30]"),
            "False",
            Reason.ACTION_FAILED,
            "cannot be removed",
        ),
        (view({}, problem="the journal cannot be read: /j: No such file"), None, "False", Reason.UNREADABLE, "/j: No"),
        (
            view({}, problem="the sentinel's status is not understood", problem_reason=Reason.WRONG_VERSION),
            None,
            "False",
            Reason.WRONG_VERSION,
            "not understood",
        ),
        (view({}), None, "False", Reason.SENTINEL_SILENT, "is its container up?"),
        (
            view(sentinel_status(sources=[source("zoneinfo", failed="Unreadable", message="/proc/zoneinfo: denied")])),
            None,
            "False",
            Reason.UNREADABLE,
            "/proc/zoneinfo: denied",
        ),
        (
            view(sentinel_status(sources=[source("psi_node", absent="NotPresent", message="PSI compiled out")])),
            None,
            "True",
            Reason.ACCEPTED,
            "in mode Enforce; without psi_node (PSI compiled out)",
        ),
    ],
)
def test_ready_says_whether_sources_are_readable_and_orders_understood(
    seen: View, link: Any, status: str, reason: Reason, text: str
) -> None:
    found = conditions(seen, link)["Ready"]
    assert (found.status, found.reason) == (status, reason)
    assert text in found.message


@pytest.mark.parametrize(
    ("seen", "status", "reason", "text"),
    [
        (view(), "False", Reason.NO_PRESSURE, "no trigger is active"),
        (view(under_pressure()), "True", Reason.ATOMIC_RESERVE_BREACHED, "reserve: 0/Normal at 41%"),
        (
            view(sentinel_status(triggers=[trigger(status="Unknown", message="zoneinfo: gone")])),
            "Unknown",
            Reason.SIGNAL_UNKNOWN,
            "zoneinfo: gone",
        ),
        (
            view(sentinel_status(triggers=[trigger(), trigger("stalled", "Unknown", message="PSI is off")])),
            "False",
            Reason.NO_PRESSURE,
            "no trigger is active; in no step, and not known: stalled: PSI is off",
        ),
        (view({}), "Unknown", Reason.SENTINEL_SILENT, "writes no status"),
        (
            view(sentinel_status(triggers=[trigger("reserve", "Active")])),
            "True",
            Reason.ATOMIC_RESERVE_BREACHED,
            "41%",
        ),
    ],
    ids=["calm", "active", "unknown", "unknown, in no step", "silent", "active, and in no step of the ladder"],
)
def test_under_pressure_names_type_and_line_and_unknown_is_never_pressure(
    seen: View, status: str, reason: Reason, text: str
) -> None:
    found = conditions(seen)["UnderPressure"]
    assert (found.status, found.reason) == (status, reason)
    assert text in found.message


ENFORCE_WITHOUT_KILL = {**sentinel_status()["capabilities"], "CgroupKill": "no cgroup.kill before Linux 5.14"}


@pytest.mark.parametrize(
    ("status", "wanted", "reason"),
    [
        (sentinel_status(), "False", Reason.NO_PRESSURE),
        (sentinel_status(lockHeld=True), "True", Reason.LOCK_HELD),
        (sentinel_status(capabilities=ENFORCE_WITHOUT_KILL), "True", Reason.CAPABILITY_MISSING),
        (
            sentinel_status(capabilities=ENFORCE_WITHOUT_KILL, orders=orders_with(mode="DryRun")),
            "False",
            Reason.NO_PRESSURE,
        ),
        (sentinel_status(decision=decision(Reason.GRANT_EXPIRED)), "False", Reason.NO_PRESSURE),
        ({**under_pressure(), "decision": decision(Reason.GRANT_EXPIRED)}, "True", Reason.NO_GRANT),
        ({**under_pressure(), "decision": decision(Reason.NO_GRANT)}, "True", Reason.NO_GRANT),
        (sentinel_status(decision=decision(Reason.EPISODE_LIMIT)), "True", Reason.BUDGET_EXHAUSTED),
        (sentinel_status(decision=decision(Reason.AGENT_LIMIT)), "True", Reason.BUDGET_EXHAUSTED),
        (sentinel_status(decision=decision(Reason.TOO_SMALL)), "True", Reason.NO_VICTIM),
        *(
            (sentinel_status(decision=decision(reason)), "True", reason)
            for reason in (
                Reason.COOLDOWN,
                Reason.NO_VICTIM,
                Reason.FUTILE,
                Reason.MOVABLE_FREE,
                Reason.DRY_RUN,
                Reason.NO_FIGURES,
                Reason.KILLED_BEFORE,
            )
        ),
        (sentinel_status(decision=decision(Reason.STEP_NOT_DUE)), "False", Reason.NO_PRESSURE),
        ({}, "Unknown", Reason.SENTINEL_SILENT),
    ],
)
def test_action_blocked_says_what_holds_a_due_kill_back(status: Object, wanted: str, reason: Reason) -> None:
    found = conditions(view(status))["ActionBlocked"]
    assert (found.status, found.reason) == (wanted, reason)


def test_a_condition_keeps_its_time_until_its_status_changes_also_over_a_restart() -> None:
    before = conditions_of(view(unix_ns=UNIX_NS - 100_000_000_000), link_state(ORDERS), ())
    stored = [condition.to_json() for condition in before]
    kept = conditions(
        view(sentinel_status(decision=decision(Reason.COOLDOWN))),
        None,
        conditions_from({"conditions": stored}),
    )
    assert kept["Ready"].changed == before[0].changed == "2027-01-15T07:58:20Z"
    assert kept["ActionBlocked"].changed == "2027-01-15T08:00:00Z"


@pytest.mark.parametrize(
    "stored", [None, [], [{"type": "Ready"}], [{"type": "Ready", "reason": "Odd", "status": "True"}], ["x"]]
)
def test_conditions_that_cannot_be_read_begin_anew(stored: Any) -> None:
    assert conditions_from({"conditions": stored}) == ()


@pytest.mark.parametrize(
    ("age_seconds", "looked_seconds", "silent"),
    [(0, 0, False), (10, 99, False), (10.1, 3.0, True), (10.1, 2.9, False), (9000, 0.5, False), (9000, 3, True)],
)
def test_a_sentinel_is_silent_after_ten_seconds_of_which_the_reporter_itself_saw_three(
    age_seconds: float, looked_seconds: float, silent: bool
) -> None:
    # after a suspend of hours the reporter may be the first of the two to run
    seen = view(boot_ns=BOOT_NS + int(age_seconds * 1e9), unchanged_seconds=looked_seconds)
    assert seen.silent is silent


def test_a_report_of_a_calm_node_has_no_zones_and_takes_old_figures_away() -> None:
    found = status_of(view())
    assert "zones" not in found
    assert "activeTriggerNames" not in found
    assert found["activeTriggers"] == found["topPods"] == []
    assert found["capabilities"] == ["CgroupKill", "MemoryLocked", "PSI"]
    assert found["psiFull10"] == "1.5%"
    assert found["lease"] == {"incarnation": INCARNATION, "beat": 1, "killsTotal": 0, "ceilingSeen": 0}
    assert found["lowest"] == {
        "node": "0",
        "zone": "0/Normal",
        "line": "AtomicReserve",
        "usableToLine": "250%",
        "freeToMin": "125%",
    }


def test_a_report_under_pressure_has_triggers_zones_and_pods() -> None:
    found = status_of(view(under_pressure()))
    assert found["activeTriggers"] == [{"name": "reserve", "since": "2027-01-15T07:59:57Z"}]
    assert found["activeTriggerNames"] == "reserve"
    assert [(each["numaNode"], each["name"]) for each in found["zones"]] == [(0, "DMA32"), (0, "Normal"), (1, "Normal")]
    assert found["topPods"] == [{"uid": "pod-1", "reliefBytes": 64 * MIB, "overRequest": True}]


def test_a_silent_sentinel_leaves_no_figures_of_its_last_hour_and_keeps_the_lease() -> None:
    old = view(under_pressure(), boot_ns=BOOT_NS + 60_000_000_000, unchanged_seconds=60)
    after = status_of(old)
    assert not after.keys() & {"zones", "lowest", "psiFull10", "activeTriggerNames"}
    assert after["topPods"] == after["activeTriggers"] == after["capabilities"] == []
    assert after["lease"]["incarnation"] == INCARNATION


def test_before_a_journal_is_read_the_lease_in_the_api_stays_and_has_to_be_the_one_that_was_seen() -> None:
    seen, held = view({}, grants=None, problem="no such file"), {"incarnation": INCARNATION, "beat": 3}
    assert "lease" not in status_of(seen)
    link = link_state(state={"metadata": {"uid": "u"}, "spec": {}, "status": {"lease": held}})
    found = status_of(seen, link)
    assert found["lease"] == held
    tests = report.patch(found, seen, link)[:-1]
    assert [(each["op"], each["path"], each["value"]) for each in tests] == [
        ("test", "/metadata/uid", "u"),
        ("test", "/status/lease", held),
    ]
    own = status_of(view(), link)
    assert own["lease"]["beat"] == 1
    assert [each["path"] for each in report.patch(own, view(), link)] == ["/metadata/uid", "/status"]


def test_a_figure_of_the_lowest_zone_that_is_not_known_is_left_out() -> None:
    lowest = {**sentinel_status()["lowest"], "freeToMin": None}
    assert "freeToMin" not in status_of(view(sentinel_status(lowest=lowest)))["lowest"]


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(None, None), (0.0, "0%"), (0.415, "42%"), (99.99, "9999%"), (100.0, ">9999%"), (1e30, ">9999%")],
)
def test_shares_are_short_texts(ratio: float | None, text: str | None) -> None:
    lowest = {**sentinel_status()["lowest"], "usableToLine": ratio}
    assert status_of(view(sentinel_status(lowest=lowest)))["lowest"].get("usableToLine") == text


@pytest.mark.parametrize(
    ("changes", "grant", "left"),
    [
        ({}, {}, 2),
        ({"kills_total": 1}, {}, 1),
        ({"kills_total": 2}, {}, 0),
        ({}, {"incarnation": "another"}, 0),
        ({}, {"beat": 9}, 0),
        ({"beats": (Beat(1, BOOT_NS - 900_000_000_000),)}, {}, 0),
    ],
)
def test_what_is_left_of_a_grant_is_what_the_sentinel_could_use(changes: Any, grant: Any, left: int) -> None:
    given_grant = grant_for(**{"incarnation": INCARNATION, "beat": 1, "ceiling": 2, **grant})
    link = link_state(replace(ORDERS, grant=given_grant))
    seen = view(grants=grants(**changes))
    assert report.grant_left(seen, link)[0] == left
    expiry = status_of(seen, link).get("grantExpireTime")
    assert expiry == ("2027-01-15T08:14:50Z" if left else None)
    assert report.grant_left(seen, link_state(replace(ORDERS, grant=given_grant, mode=Mode.DRY_RUN))) == (0, 0)
    assert report.grant_left(seen, link_state()) == (0, 0)


KEY = report.transition_key(status_of(view()), link_state(ORDERS))


@pytest.mark.parametrize(
    ("seen", "link", "moves"),
    [
        (view(), link_state(ORDERS, generation=5), False),
        (view(sentinel_status(psi={"node": None, "pods": None}, lowest=None)), link_state(ORDERS), False),
        (view(grants=grants(beats=(Beat(2, BOOT_NS),))), link_state(ORDERS), False),
        (view(), link_state(replace(ORDERS, plan_generation=2)), False),
        (view(), link_state(replace(ORDERS, pods=())), False),
        (view(), link_state(ORDERS, state={"metadata": {"uid": "made again"}}), True),
        (view(), link_state(replace(ORDERS, mode=Mode.DRY_RUN)), True),
        (view(), link_state(replace(ORDERS, policy_generation=2)), True),
        (view(), link_state(), True),
        (view(under_pressure()), link_state(ORDERS), True),
        (view(sentinel_status(decision=decision(Reason.COOLDOWN))), link_state(ORDERS), True),
        (view(sentinel_status(capabilities={})), link_state(ORDERS), True),
        (view(grants=grants(kills_total=1)), link_state(ORDERS), True),
        (view(grants=grants(ceiling_seen=1)), link_state(ORDERS), True),
        (view({}), link_state(ORDERS), True),
    ],
)
def test_states_make_a_write_due_and_figures_renewals_and_beats_do_not(seen: View, link: Any, moves: bool) -> None:
    assert (report.transition_key(status_of(seen, link), link) != KEY) is moves


def test_a_node_with_an_allowance_tells_at_once_whose_pods_it_may_kill_and_no_other_does() -> None:
    def key(orders: Any, kills_total: int = 0) -> object:
        seen, link = view(grants=grants(kills_total=kills_total)), link_state(orders)
        return report.transition_key(status_of(seen, link), link)

    armed = replace(ORDERS, grant=grant_for(INCARNATION, ceiling=1))
    renewed = replace(armed, grant=grant_for(INCARNATION, ceiling=1, beat=7), plan_generation=2)
    sibling = replace(armed, pods=(*armed.pods, candidate("pod-2", "p2")))
    assert key(armed) == key(renewed) == key(sibling), "the same workload, and a renewal"
    given_up = replace(armed, pods=())
    assert key(given_up) != key(armed)
    assert key(given_up, kills_total=1) == key(armed, kills_total=1), "its allowance is used up"


ACTION = {
    "id": "0123abcd-a7",
    "time": "2027-01-15T08:00:00.123456Z",
    "action": "Kill",
    "mode": "Enforce",
    "result": "Success",
    "reason": "AtomicReserveBreached",
    "pod": {"uid": "u", "namespace": "n", "name": "p"},
    "freedBytes": 5,
}
EPISODE = {
    "id": "0123abcd-e7",
    "start": "2027-01-15T08:00:00.123456Z",
    "worst": "0/Normal at 41%",
    "reason": "AtomicReserveBreached",
    "actions": 1,
    "outcome": "Running",
}


def test_an_action_keeps_its_exact_time_and_its_message_is_cut_to_what_the_api_takes() -> None:
    assert report.action_entry(ACTION, "") == ACTION
    assert report.action_entry({**ACTION, "extra": 1}, "why") == {**ACTION, "message": "why"}
    entry = report.action_entry(ACTION, "x" * 5000)
    assert entry is not None
    assert len(entry["message"]) == 1024


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": "x" * 65},
        {"time": "yesterday"},
        {"time": 5},
        {"action": "Reboot"},
        {"mode": "Disabled"},
        {"result": "Perhaps"},
        {"reason": "not a reason"},
        {"pod": "p"},
        {"pod": {"uid": "u"}},
        {"pod": {"uid": "u", "namespace": "n", "name": ""}},
        {"pod": {"uid": "u", "namespace": "n", "name": 5}},
        {"pod": {"uid": "u", "namespace": "n" * 64, "name": "p"}},
        {"freedBytes": -1},
        {"freedBytes": "many"},
    ],
)
def test_an_action_that_the_api_would_refuse_is_not_understood(changes: Object) -> None:
    assert report.action_entry({**ACTION, **changes}, "why") is None


@pytest.mark.parametrize("value", [None, "[left out: too long]", 5, [], {}, {"id": "x"}])
def test_what_is_no_record_is_not_understood(value: object) -> None:
    assert report.action_entry(value, "") is None
    assert report.episode_entry(value) is None


@pytest.mark.parametrize(
    ("changes", "understood"),
    [
        ({}, True),
        ({"end": "2027-01-15T08:05:00Z", "outcome": "Recovered"}, True),
        ({"end": "never"}, False),
        ({"start": None}, False),
        ({"outcome": "Odd"}, False),
        ({"reason": "odd"}, False),
        ({"actions": -1}, False),
        ({"actions": "many"}, False),
        ({"id": "x" * 65}, False),
    ],
)
def test_episodes_are_checked_too(changes: Object, understood: bool) -> None:
    given_record = {**EPISODE, **changes}
    assert report.episode_entry(given_record) == (given_record if understood else None)


def test_an_episode_is_cut_to_what_the_api_takes() -> None:
    entry = report.episode_entry({**EPISODE, "worst": "w" * 5000, "actions": 10**9})
    assert entry is not None
    assert (len(entry["worst"]), entry["actions"]) == (1024, 1_000_000)


texts = st.text(max_size=6000)
counts = st.integers(0, (1 << 53) - 1)


@st.composite
def statuses(draw: st.DrawFn) -> Object:
    """Statuses that have the right shape and the wildest contents."""
    names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=63)
    triggers = [
        {
            **trigger(name, draw(st.sampled_from(["Active", "Clear", "Unknown"])), draw(texts)),
            "sinceUnixNs": draw(st.integers(-(10**22), 10**22)),
        }
        for name in draw(st.lists(names, max_size=20, unique=True))
    ]
    return sentinel_status(
        triggers=triggers,
        decision={
            "reason": draw(st.sampled_from(Reason)).value,
            "message": draw(texts),
            "cause": draw(st.sampled_from(Reason)).value,
        },
        zones=[
            zone(node, name, draw(st.integers(1, 1 << 20)))
            for node in range(draw(st.integers(0, 40)))
            for name in ("DMA32", "Normal")
        ],
        topPods=[
            {"uid": f"pod-{number}", "reliefBytes": draw(counts), "overRequest": draw(st.booleans())}
            for number in range(10)
        ],
        lowest=draw(
            st.none()
            | st.fixed_dictionaries(
                {
                    "numaNode": st.integers(0, 65535),
                    "zone": st.sampled_from(["DMA", "DMA32", "Normal", "Movable"]),
                    "line": st.sampled_from(["High", "Low", "Min", "AtomicReserve"]),
                    "usableToLine": st.none() | st.floats(0, 1e300),
                    "freeToMin": st.none() | st.floats(0, 1e300),
                }
            )
        ),
        sources=[source("zoneinfo", failed=draw(st.sampled_from([None, "Unreadable"])), message=draw(texts))],
        helper={"near": draw(st.booleans())},
        orders=orders_with(standing=draw(st.sampled_from(["None", "Valid", "Invalid"])), message=draw(texts)),
    )


@settings(max_examples=60, deadline=None)
@given(status=statuses(), message=texts, looked=st.sampled_from([0.0, 60.0]), age=st.integers(0, 10**12))
def test_whatever_the_sentinel_says_the_api_takes_the_report(
    status: Object, message: str, looked: float, age: int
) -> None:
    assert shape.complaint(status) == ""
    seen = view(status, boot_ns=BOOT_NS + age, unchanged_seconds=looked)
    link = link_state(reason=Reason.NO_ORDERS, message=message)
    action, episode = report.action_entry(ACTION, message), report.episode_entry({**EPISODE, "worst": message})
    assert action is not None
    assert episode is not None
    sent = json.loads(json.dumps(status_of(seen, link, [action] * 10, [episode] * 10)))
    assert list(refusals(sent, STATUS_SCHEMA)) == []


def test_what_is_too_long_or_too_many_is_cut_and_the_rest_is_reported() -> None:
    long = "\N{SNOWMAN}" * 5000
    triggers = [trigger(f"{number:02}-{'t' * 60}", "Active", long) for number in range(20)]
    status = under_pressure(triggers=triggers, zones=[zone(node, "Normal", 64) for node in range(100)])
    sent = status_of(view({**status, "decision": {**decision(Reason.FUTILE, long), "cause": "LowBreached"}}))
    assert list(refusals(sent, STATUS_SCHEMA)) == []
    lengths = {condition["type"]: len(condition["message"]) for condition in sent["conditions"]}
    assert (lengths["UnderPressure"], lengths["ActionBlocked"]) == (4096, 4096)
    assert (len(sent["activeTriggers"]), len(sent["activeTriggerNames"]), len(sent["zones"])) == (16, 1024, 64)


def _without(path: str) -> Callable[[Object], None]:
    def change(status: Object) -> None:
        *way, last = path.split(".")
        place: Any = status
        for name in way:
            place = place[int(name)] if name.isdigit() else place[name]
        del place[last]

    return change


def _with(path: str, value: Any) -> Callable[[Object], None]:
    def change(status: Object) -> None:
        *way, last = path.split(".")
        place: Any = status
        for name in way:
            place = place[int(name)] if name.isdigit() else place[name]
        place[int(last) if last.isdigit() else last] = value

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_without("writtenBootNs"), "writtenBootNs: is missing"),
        (_without("decision.cause"), "decision.cause: is missing"),
        (_without("zones.1.reserveBytes"), "zones[1].reserveBytes: must be a whole number, not negative, not None"),
        (_with("triggers", {}), "triggers: must be a list, not {}"),
        (
            _with("triggers.0.status", "Burning"),
            "triggers[0].status: 'Burning' is none of the words that are known here",
        ),
        (_with("decision.reason", "Moon"), "decision.reason: 'Moon' is none"),
        (_with("orders.mode", None), "orders.mode: None is none"),
        (
            _with("counters.refusals", {"Cooldown": -1}),
            "counters.refusals.Cooldown: must be a whole number, not negative",
        ),
        (_with("capabilities", ["PSI"]), "capabilities: must be an object, not ['PSI']"),
        (_with("capabilities", {"PSI": True}), "capabilities.PSI: must be a text, not True"),
        (_with("loop.lag.buckets", []), "loop.lag.buckets: must be pairs"),
        (_with("loop.lag.buckets", [[0.1, 3]]), "loop.lag.buckets: must be pairs"),
        (_with("killLatency.buckets", [[None, "3"]]), "killLatency.buckets: must be pairs"),
        (_with("psi.node", 3), "psi.node: must be an object, not 3"),
        (_with("lowest", "x" * 500), "lowest: must be an object, not 'xxxx"),
        (_with("writtenBootNs", True), "writtenBootNs: must be a whole number, not negative, not True"),
    ],
)
def test_a_status_of_another_version_is_told_by_its_first_odd_field(
    change: Callable[[Object], None], complaint: str
) -> None:
    status = copy.deepcopy(sentinel_status())
    change(status)
    assert complaint in shape.complaint(status)
    assert len(shape.complaint(status)) < 200


def test_more_members_than_are_known_and_absent_sources_are_no_complaint() -> None:
    nothing = sentinel_status(
        zones=None, lowest=None, psi={"node": None, "pods": None}, triggers=[], sources=[], news=1
    )
    assert shape.complaint(nothing) == ""
    assert shape.complaint({}) == "writtenBootNs: is missing"
