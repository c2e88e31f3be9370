"""The kill of `run`, on a plain machine: what counts as killed, and what as not known to be over."""

from pathlib import Path
from typing import Any

import pytest
from support.cgrouptree import MIB, CgroupTree, Memory
from support.sentinellab import candidate

from memorypressure.ladder import OutcomeKind
from memorypressure.reasons import Reason
from memorypressure.records import Decision, Phase, Victim
from memorypressure.spec_values import Action, Mode
from memorypressure_agent.host.cgroups import PodsTree
from memorypressure_agent.host.containers import ContainerHandle, open_handle
from memorypressure_agent.run.killer import Killer

UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
NOW = 1_000


def handles(directory: Path) -> list[ContainerHandle]:
    made = CgroupTree(directory)
    made.add_pod(UID)
    made.add_container(UID, "c0de01", Memory(anon=5 * MIB))
    tree = PodsTree(str(directory))
    (pod,) = tree.scan()
    found = open_handle(tree, next(each for each in pod.containers if each.container_id == "c0de01"))
    assert found is not None
    return [found]


def killer(held: list[ContainerHandle]) -> Killer:
    class Held:
        def handles(self, _uid: str, _ids: tuple[str, ...]) -> list[ContainerHandle]:
            return held

    pods: Any = Held()
    return Killer(pods)


def decision() -> Decision:
    victim = Victim(candidate(UID, "a").ref, ("c0de01",), 5 * MIB, 0, False)
    return Decision(NOW, Phase.ACTING, Action.KILL, Mode.ENFORCE, Reason.KILLED, "", action_number=1, victim=victim)


def test_a_kill_is_over_when_the_cgroup_is_empty(tmp_path: Path) -> None:
    held = handles(tmp_path)
    made = killer(held)
    made.kill(decision(), NOW)
    assert [each.kind for each in made.outcomes(NOW)] == [OutcomeKind.WRITTEN, OutcomeKind.PROGRESS]
    events = next(tmp_path.rglob("c0de01/cgroup.events"))
    events.write_text("")
    assert [each.kind for each in made.outcomes(NOW)] == [OutcomeKind.PROGRESS], "not understood is not empty"
    events.write_text("populated 0\nfrozen 0\n")
    assert [each.kind for each in made.outcomes(NOW)] == [OutcomeKind.GONE]
    assert made.killed == 1


def test_where_nothing_was_left_to_kill_nothing_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = handles(tmp_path)
    monkeypatch.setattr(ContainerHandle, "kill", lambda _: False)
    made = killer(held)
    made.kill(decision(), NOW)
    (outcome,) = made.outcomes(NOW)
    assert (outcome.kind, outcome.message) == (OutcomeKind.FAILED, "its cgroups are gone")
    assert made.killed == 0
