"""What a user of kubectl reads of the three kinds: refusals, explanations, columns, selectors, waiting."""

import json
from typing import Any, Final

import pytest
from support.definitions import PLANS, POLICIES, STATES, changed
from support.node_objects import STATE, plan, state
from support.policy_cases import BASE, GONE, KILL_SAYS

from memorypressure_tools.apiclient import MERGE_PATCH
from memorypressure_tools.controlplane import ControlPlane

INCOMPLETE: Final = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid;"
    " correct the existing errors to complete validation"
)
KUBECTL_SAYS: Final[tuple[tuple[str, tuple[tuple[str, Any], ...], str], ...]] = (
    (
        "unknown trigger",
        (("spec.ladder[0].triggers", ["resrve"]),),
        "spec.ladder: Invalid value: ladder refers to a trigger that spec.triggers does not define",
    ),
    ("soft kill", (("spec.ladder[2].triggers", ["stalled"]),), f"spec.ladder: Invalid value: {KILL_SAYS}"),
    (
        "union",
        (("spec.triggers[2].psi", GONE),),
        "spec.triggers[2].psi: Invalid value: psi is set exactly when type is PSI",
    ),
    (
        "no afterSeconds",
        (("spec.ladder[1].afterSeconds", GONE),),
        "spec.ladder[1].afterSeconds: Invalid value: afterSeconds is required for Evict and Kill",
    ),
    (
        "critical pods",
        (("spec.victims.maxPriority", 2_000_000_000),),
        (
            "spec.victims.maxPriority: Invalid value: 2000000000:"
            " maxPriority must be below 2000000000, where system-critical pods begin"
        ),
    ),
    (
        "quantity",
        (("spec.victims.minRelief", "64 MB"),),
        (
            'spec.victims.minRelief: Invalid value: "64 MB":'
            " minRelief must be 0 or a quantity from 1Mi to 1Pi, for example 64Mi"
        ),
    ),
    (
        "share",
        (("spec.limits.maxConcurrentNodes", "150%"),),
        (
            'spec.limits.maxConcurrentNodes: Invalid value: "150%":'
            " maxConcurrentNodes is a number from 1 to 100000 or a share from 1% to 100%"
        ),
    ),
)


@pytest.mark.parametrize(("changes", "line"), [pytest.param(*row[1:], id=row[0]) for row in KUBECTL_SAYS])
def test_kubectl_prints_one_readable_line(crds: ControlPlane, changes: tuple[tuple[str, Any], ...], line: str) -> None:
    done = crds.kubectl("create", "-f", "-", stdin=json.dumps(changed(BASE, *changes)), check=False)
    assert done.returncode == 1
    assert done.stderr == f'The MemoryPressurePolicy "case" is invalid: {line}\n'


def test_kubectl_names_the_words_of_a_misspelt_choice_and_says_that_rules_wait(crds: ControlPlane) -> None:
    done = crds.kubectl("create", "-f", "-", stdin=json.dumps(changed(BASE, ("spec.mode", "enforce"))), check=False)
    assert done.stderr.splitlines() == [
        'The MemoryPressurePolicy "case" is invalid: ',
        '* spec.mode: Unsupported value: "enforce": supported values: "Disabled", "DryRun", "Enforce"',
        f"* {INCOMPLETE}",
    ]


def test_kubectl_refuses_a_field_that_is_not_there(crds: ControlPlane) -> None:
    wrong = changed(BASE, ("spec.triggers[0].zoneWatermark.watermark", "Min"))
    done = crds.kubectl("create", "-f", "-", stdin=json.dumps(wrong), check=False)
    assert 'unknown field "spec.triggers[0].zoneWatermark.watermark"' in done.stderr


EXPLAINED: Final = (
    ("mpp.spec.ladder", ("mildest first", "afterSeconds", "enum: Taint, Evict, Kill")),
    ("mpp.spec.mode", ("writes to no cgroup, pod or node", "Default DryRun")),
    ("mpp.spec.triggers.zoneWatermark.line", ("half of min", "lowmem reserve")),
    ("mpp.spec.limits.maxStandingKills", ("without asking first", "Default 10%")),
    ("nms.spec.grant", ("allowance to kill", "killsCeiling")),
    ("nmp.spec.pods", ("at most 250", "requestBytes")),
)


@pytest.mark.parametrize(("field", "words"), EXPLAINED, ids=[field for field, _ in EXPLAINED])
def test_kubectl_explains_fields(crds: ControlPlane, field: str, words: tuple[str, ...]) -> None:
    text = " ".join(crds.kubectl("explain", field).stdout.split())
    assert [word for word in words if word not in text] == []


# Columns, selectors, names, waiting.

STATUS: Final[dict[str, Any]] = {
    "observedGeneration": 1,
    "conditions": [
        {
            "type": kind,
            "status": value,
            "lastTransitionTime": "2026-05-01T09:59:00Z",
            "reason": reason,
            "message": "as it is",
        }
        for kind, value, reason in (("Ready", "True", "Reconciled"), ("Conflicted", "False", "NoOverlap"))
    ],
    "nodes": {"selected": 44, "effective": 42, "superseded": 2, "reporting": 41, "underPressure": 1, "armed": 5},
    "actions": {"dryRun": 6, "evictions": 4, "kills": 3, "denied": 2},
    "exposure": {"standingKills": 5, "worstCaseHour": 10},
    "lastActionTime": "2026-05-01T09:59:10Z",
}


def cells(crds: ControlPlane, kind: str, name: str, *words: str) -> dict[str, str]:
    """The columns that kubectl prints for one object, by their heading; none of the cells may hold a blank."""
    lines = crds.kubectl("get", kind, name, *words).stdout.splitlines()
    heads, values = lines[0].split(), lines[1].split()
    assert len(heads) == len(values), lines
    return dict(zip(heads, values, strict=True))


def test_columns_of_a_policy(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}default"
    crds.admin.must("POST", POLICIES, changed(BASE, ("metadata.name", name)))
    crds.admin.must("PATCH", f"{POLICIES}/{name}/status", {"status": STATUS}, MERGE_PATCH)
    narrow = cells(crds, "mpp", name)
    age, last = narrow.pop("AGE"), narrow.pop("LAST-ACTION")
    assert age.endswith("s")
    assert last.endswith(("d", "y", "h")) or "y" in last
    assert narrow == {
        "NAME": name,
        "MODE": "Enforce",
        "PRIORITY": "5",
        "NODES": "42",
        "PRESSURE": "1",
        "READY": "True",
        "REASON": "Reconciled",
    }
    wide = cells(crds, "mpp", name, "-o", "wide")
    assert {key: wide[key] for key in ("CONFLICTED", "EVICTIONS", "KILLS", "DENIED")} == {
        "CONFLICTED": "False",
        "EVICTIONS": "4",
        "KILLS": "3",
        "DENIED": "2",
    }


def test_columns_of_a_state(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", STATES, state(name))
    crds.admin.must("PATCH", f"{STATES}/{name}/status", {"status": STATE["status"]}, MERGE_PATCH)
    narrow = cells(crds, "nms", name)
    assert list(narrow) == ["NAME", "POLICY", "MODE", "PRESSURE", "REASON", "ZONE", "FREE/MIN", "LAST-ACTION", "AGE"]
    shown = [narrow[key] for key in ("POLICY", "MODE", "PRESSURE", "REASON", "ZONE", "FREE/MIN")]
    assert shown == ["default", "DryRun", "True", "AtomicReserveBreached", "0/Normal", "46%"]
    wide = cells(crds, "nms", name, "-o", "wide")
    shown = [wide[key] for key in ("TRIGGERS", "PSI-FULL10", "GRANT-EXPIRES", "AGENT")]
    assert shown == ["reserve,scarce", "12.5%", "2026-05-01T10:15:00Z", "0.1.0"]
    assert wide["REPORTED"]


def test_columns_of_a_plan(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", PLANS, plan(name))
    narrow = cells(crds, "nmp", name)
    assert narrow.pop("AGE").endswith("s")
    assert narrow == {"NAME": name, "POLICY": "default", "POLICY-GEN": "2", "PLAN-GEN": "1"}
    wide = cells(crds, "nmp", name, "-o", "wide")
    assert [wide[key] for key in ("COOLDOWN", "EPISODE-MAX", "GRANT")] == ["60", "3", "900"]


def test_selected_fields_category_and_short_names(crds: ControlPlane, prefix: str) -> None:
    gpu = prefix.strip("-")
    crds.admin.must("POST", STATES, state(f"{prefix}1", policyName=gpu))
    crds.admin.must("POST", STATES, state(f"{prefix}2", policyName=gpu, mode="Enforce"))
    crds.admin.must("POST", STATES, state(f"{prefix}3"))
    crds.admin.must("POST", PLANS, plan(f"{prefix}1", policy={"name": gpu, "generation": 1}))
    crds.admin.must("POST", POLICIES, changed(BASE, ("metadata.name", f"{prefix}p"), ("spec.mode", "Disabled")))

    def names(kind: str, *words: str) -> list[str]:
        lines = crds.kubectl("get", kind, "-o", "name", *words).stdout.split()
        return [line.rsplit("/", 1)[1] for line in lines if line.rsplit("/", 1)[1].startswith(prefix)]

    assert names("nms", "--field-selector", f"spec.policyName={gpu}") == [f"{prefix}1", f"{prefix}2"]
    assert names("nms", "--field-selector", f"spec.policyName={gpu},spec.mode=Enforce") == [f"{prefix}2"]
    assert names("nmp", "--field-selector", f"spec.policy.name={gpu}") == [f"{prefix}1"]
    assert names("mpp", "--field-selector", "spec.mode=Disabled") == [f"{prefix}p"]
    assert names("mpp", "--field-selector", "spec.mode=Enforce") == []
    everything = crds.kubectl("get", "memorypressure", "-o", "name").stdout
    assert {line.split("/")[0] for line in everything.split() if prefix in line} == {
        f"{plural}.memorypressure.dev" for plural in ("memorypressurepolicy", "nodememorystate", "nodememoryplan")
    }


def test_kubectl_waits_for_conditions(crds: ControlPlane, prefix: str) -> None:
    name = f"{prefix}worker"
    crds.admin.must("POST", STATES, state(name))
    crds.admin.must("PATCH", f"{STATES}/{name}/status", {"status": STATE["status"]}, MERGE_PATCH)
    crds.kubectl("wait", f"nms/{name}", "--for=condition=UnderPressure", "--timeout=5s")
    still = crds.kubectl("wait", f"nms/{name}", "--for=condition=UnderPressure=false", "--timeout=1s", check=False)
    assert still.returncode == 1
    clear = {**STATE["status"]["conditions"][0], "status": "False", "reason": "NoPressure"}
    crds.admin.must("PATCH", f"{STATES}/{name}/status", {"status": {"conditions": [clear]}}, MERGE_PATCH)
    crds.kubectl("wait", f"nms/{name}", "--for=condition=UnderPressure=false", "--timeout=5s")
