"""What the API says while a flood runs, as it changes: the node, the load's pods, the node's state, our Events."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import urllib3

from memorypressure_tools.apiclient import ApiClient, ApiError
from memorypressure_tools.flood.load import NAMESPACE

POLL_SECONDS: Final = 0.3
TAINT: Final = "memorypressure.dev/pressure"


@dataclass(frozen=True, slots=True)
class Change:
    """Something became different: when that was seen (seconds since the epoch, here), what, and what it is now."""

    at: float
    what: str
    now: str


class Observer:
    """Asks the API server three times a second from a thread of its own; a `with` block. An outage is a change, too."""

    def __init__(self, client: ApiClient, node: str, *, told: Callable[[Change], None] | None = None) -> None:
        """`told` is called with every change but the ones of the first look, from the observer's thread."""
        self._client = client
        self._told = told
        self._node = node
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="observer", daemon=True)
        self._seen: dict[str, str] = {}
        self.changes: list[Change] = []

    def _loop(self) -> None:
        while not self._ended.is_set():
            try:
                self._compare(self._current())
            except (ApiError, urllib3.exceptions.HTTPError) as error:
                self._compare({**self._seen, "api": f"{type(error).__name__}"})
            self._ended.wait(POLL_SECONDS)

    def _current(self) -> dict[str, str]:
        found = {"api": "answers"}
        node = self._client.must("GET", f"/api/v1/nodes/{self._node}")
        taints = [f"{each['key']}:{each['effect']}" for each in node["spec"].get("taints", [])]
        found["taint"] = next((taint for taint in taints if taint.startswith(TAINT)), "none")
        found["other taints"] = ",".join(sorted(taint for taint in taints if not taint.startswith(TAINT))) or "none"
        conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
        found["node"] = f"Ready={conditions.get('Ready')} MemoryPressure={conditions.get('MemoryPressure')}"
        for pod in self._client.must("GET", f"/api/v1/namespaces/{NAMESPACE}/pods")["items"]:
            found[f"pod {pod['metadata']['name']}"] = pod_text(pod)
        answer = self._client.request("GET", f"/apis/memorypressure.dev/v1alpha1/nodememorystates/{self._node}")
        if answer.status == 200:
            found |= state_texts(answer.body.get("status", {}))
        found |= event_texts(self._client.must("GET", "/apis/events.k8s.io/v1/events")["items"])
        return found

    def _compare(self, found: Mapping[str, str]) -> None:
        at, first = time.time(), not self._seen
        changes = [Change(at, what, now) for what, now in found.items() if self._seen.get(what) != now]
        gone = [what for what in self._seen if what not in found and what.startswith("pod ")]
        changes += [Change(at, what, "gone") for what in gone]
        self.changes += changes
        self._seen = dict(found)
        if self._told is not None and not first:
            for change in changes:
                self._told(change)

    def first(self, what: str, *, after: float = 0.0, starts: str = "") -> Change | None:
        """The first change of that after that time to something that starts so."""
        return next(
            (each for each in self.changes if each.what == what and each.at >= after and each.now.startswith(starts)),
            None,
        )

    def last(self, what: str) -> str | None:
        """What it is now."""
        return self._seen.get(what)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        with contextlib.suppress(RuntimeError):
            self._thread.join(30)


def pod_text(pod: Mapping[str, Any]) -> str:
    """Phase, what its container does or how it ended, restarts, whether it is being deleted."""
    status = pod.get("status", {})
    words = [status.get("phase", "?"), *([status["reason"]] if status.get("reason") else [])]
    for container in status.get("containerStatuses", []):
        words += _ended("now", container.get("state", {})) + _ended("before", container.get("lastState", {}))
        if container.get("restartCount"):
            words.append(f"restarts={container['restartCount']}")
    if "deletionTimestamp" in pod["metadata"]:
        words.append("deleting")
    return " ".join(words)


def _ended(when: str, state: Mapping[str, Any]) -> list[str]:
    ended = state.get("terminated")
    return [f"{when}:{ended.get('reason')}({ended.get('exitCode')})"] if ended else []


def state_texts(status: Mapping[str, Any]) -> dict[str, str]:
    """The node's own word: active triggers, episodes, actions."""
    found = {"triggers": status.get("activeTriggerNames") or "none"}
    for episode in status.get("recentEpisodes", []):
        found[f"episode {episode['id']}"] = f"{episode.get('reason')} {episode.get('worst')} {episode.get('outcome')}"
    for action in status.get("recentActions", []):
        pod = action.get("pod", {})
        text = (
            f"{action['action']} {action.get('mode')} {action.get('result')} {pod.get('namespace')}/{pod.get('name')}"
        )
        found[f"action {action['id']}"] = f"{text} {action.get('reason')} freed={action.get('freedBytes')}"
    return found


def event_texts(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The operator's Events, by what they are about."""
    found = {}
    for event in events:
        if event.get("reportingController", "").startswith("memorypressure.dev/"):
            about = event.get("regarding", {})
            name = f"event {event['reason']} {about.get('kind')}/{about.get('name')} {event['metadata']['name']}"
            found[name] = str(event.get("note", ""))
    return found
