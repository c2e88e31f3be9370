"""Every version of some objects that the API server showed, and what the grant protocol promises about them."""

import contextlib
import json
import threading
from collections.abc import Sequence
from typing import Any

import urllib3
from support.operator_lab import Object, wait_for

from memorypressure_tools.controlplane import ControlPlane


class Versions:
    """Every version of a collection's objects from now on, by a watch that is opened anew when it ends.

    What changes while the API server is away, or between two watches, is seen once, as it is then.
    """

    def __init__(self, plane: ControlPlane, path: str) -> None:
        pair = plane.etcd_identity  # the administrator's
        self._pool = urllib3.PoolManager(
            ca_certs=str(plane.authority.certificate_file), cert_file=str(pair.certificate), key_file=str(pair.key)
        )
        self._url = f"{plane.url}{path}"
        self._closed = threading.Event()
        self._seen: list[Object] = []
        self._latest: dict[str, Object] = {}
        self._answer: urllib3.BaseHTTPResponse | None = None
        # just after its definition was made a collection answers 429 for a moment
        self._version = str(wait_for(self._listed, f"{path} can be listed"))
        self._thread = threading.Thread(target=self._run, name="versions", daemon=True)
        self._thread.start()

    def _listed(self) -> str:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self._list()
        return ""

    def _list(self) -> str:
        """Takes all objects as they are; the resourceVersion to watch from."""
        answer = self._pool.request("GET", self._url, timeout=10, retries=False)
        if answer.status != 200:
            raise urllib3.exceptions.HTTPError(f"{self._url}: {answer.status}")
        found = json.loads(answer.data)
        for item in found["items"]:
            self._take("MODIFIED", item)
        names = {item["metadata"]["name"] for item in found["items"]}
        for name in self._latest.keys() - names:
            del self._latest[name]
        return str(found["metadata"]["resourceVersion"])

    def _take(self, kind: str, item: Object) -> None:
        name = item["metadata"]["name"]
        if kind == "DELETED":
            self._latest.pop(name, None)
        elif kind in ("ADDED", "MODIFIED"):
            if name not in self._latest or version_of(self._latest[name]) != version_of(item):
                self._seen.append(item)
            self._latest[name] = item

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                self._watch()
                self._version = self._list()
            except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError):
                self._closed.wait(0.2)  # the API server is away, or this was closed

    def _watch(self) -> None:
        timeout = urllib3.Timeout(connect=5, read=600)
        url = f"{self._url}?watch=1&resourceVersion={self._version}"
        answer = self._answer = self._pool.request("GET", url, preload_content=False, timeout=timeout, retries=False)
        with contextlib.closing(answer):  # an answer that is not read to its end keeps its connection open
            if answer.status != 200:
                raise urllib3.exceptions.HTTPError(f"{url}: {answer.status}")
            rest = b""
            for chunk in answer.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        return  # the version to watch from is too old
                    self._take(event["type"], event["object"])
                    self._version = str(event["object"]["metadata"]["resourceVersion"])  # a broken watch goes on here

    def seen(self) -> list[Object]:
        """The versions so far; deletions are left out."""
        return list(self._seen)

    def latest(self, name: str) -> Object | None:
        """The object of that name as it was last seen; None when there is none."""
        return self._latest.get(name)

    def close(self) -> None:
        """Ends the watch; what was seen stays."""
        self._closed.set()
        connection: Any = self._answer.connection if self._answer is not None else None
        if connection is not None and connection.sock is not None:
            connection.sock.shutdown(2)  # wakes the reader
        self._thread.join(timeout=5)
        if self._answer is not None:
            self._answer.close()
        self._pool.clear()


def version_of(item: Object) -> int:
    """The object's place in the order of all writes: etcd's revision, one for all kinds."""
    return int(item["metadata"]["resourceVersion"])


def ledger_of(config_map: Object) -> Object:
    """What the ConfigMap holds; empty for one that is no ledger."""
    found: Object = json.loads(config_map.get("data", {}).get("ledger", "{}"))
    return found


def raises(states: Sequence[Object]) -> list[Object]:
    """The versions of NodeMemoryStates in which an incarnation's ceiling is higher than in the version before."""
    last: dict[str, tuple[str, int]] = {}
    found = []
    for state in states:
        grant, uid = state["spec"].get("grant"), state["metadata"]["uid"]
        now = (grant["incarnation"], grant["killsCeiling"]) if grant else ("", 0)
        before = last.get(uid, ("", 0))
        last[uid] = now
        if grant and (now[0] != before[0] or now[1] > before[1]) and now[1] > kills_reported(state):
            found.append(state)
    return found


def kills_reported(state: Object) -> int:
    """How many kills the incarnation that the grant is for has reported."""
    grant, lease = state["spec"].get("grant") or {}, state.get("status", {}).get("lease") or {}
    return int(lease["killsTotal"]) if lease.get("incarnation") == grant.get("incarnation") else 0


def uncovered(states: Sequence[Object], config_maps: Sequence[Object]) -> list[str]:
    """Raises of a ceiling that the newest ledger of an earlier version did not hold."""
    wrong = []
    for state in raises(states):
        grant = state["spec"]["grant"]
        earlier = [each for each in config_maps if version_of(each) < version_of(state)]
        newest = {each["metadata"]["name"]: each for each in sorted(earlier, key=version_of)}
        entries = [entry for each in newest.values() for entry in ledger_of(each).get("entries", [])]
        mine = [entry for entry in entries if entry["incarnation"] == grant["incarnation"]]
        if not any(entry["ceiling"] >= grant["killsCeiling"] for entry in mine):
            name = state["metadata"]["name"]
            wrong.append(f"{name}: ceiling {grant['killsCeiling']} at {version_of(state)}, ledgers hold {mine}")
    return wrong


def most_outstanding(states: Sequence[Object], nodes: Sequence[str]) -> int:
    """The most kills that the grants of these nodes allowed together at any version, beyond those reported."""
    allowed: dict[str, int] = {}
    most = 0
    for state in sorted(states, key=version_of):
        name, grant = state["metadata"]["name"], state["spec"].get("grant")
        if name in nodes:
            allowed[name] = max(0, grant["killsCeiling"] - kills_reported(state)) if grant else 0
            most = max(most, sum(allowed.values()))
    return most
