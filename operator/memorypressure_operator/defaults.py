"""The default policy: created once from a ConfigMap of the chart, and never again once it was.

A policy in the chart itself would fail a first install, before its CRD is served. The mark is an annotation of the
ConfigMap, so a user may delete the policy and keep it deleted.

Whoever ends between creating and marking leaves another annotation, written before: from which resourceVersion on the
API server's own history says whether the policy was made. It remembers that for some minutes; where it does not any
more the policy counts as made, and the log says what to do.
"""

import json
import logging
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import yaml

from memorypressure.spec import SpecError, parse_policy
from memorypressure_operator.api import MERGE_PATCH, Api, config_map_path, own_path
from memorypressure_operator.errors import ApiRefused

log = logging.getLogger(__name__)

KEY = "policy.yaml"
MARK = "memorypressure.dev/created"
INTENT = "memorypressure.dev/creating"
HISTORY_SECONDS = 1


class Created(StrEnum):
    """What came of the attempt; the first three are final."""

    CREATED = "Created"
    EXISTS = "Exists"
    BEFORE = "Before"
    ABSENT = "Absent"
    INVALID = "Invalid"

    @property
    def final(self) -> bool:
        """Whether no further attempt is needed."""
        return self in (Created.CREATED, Created.EXISTS, Created.BEFORE)


def create_once(api: Api, namespace: str, name: str) -> Created:
    """Creates the policy unless the mark is there. Raises ApiUnreachable and ApiRefused beyond what it handles.

    A ConfigMap that is missing or not understood changes nothing and is told in the log with what to correct.
    """
    path = config_map_path(namespace, name)
    try:
        config_map: dict[str, Any] = api.get(path).json()
    except ApiRefused as refusal:
        if not refusal.not_found:
            raise
        log.warning("no default policy: there is no ConfigMap %s/%s (--default-policy-configmap)", namespace, name)
        return Created.ABSENT
    annotations = config_map["metadata"].get("annotations") or {}
    if MARK in annotations:
        return Created.BEFORE
    policy, problem = _read(config_map)
    if problem:
        log.error("no default policy: ConfigMap %s/%s, key %s: %s", namespace, name, KEY, problem)
        return Created.INVALID
    made = policy["metadata"]["name"]
    if INTENT in annotations and _was_made(api, made, annotations[INTENT]):
        _annotate(api, path, {MARK: _now(), INTENT: None})
        return Created.BEFORE
    first = api.get(own_path("memorypressurepolicies"), query={"limit": "1"}).json()
    _annotate(api, path, {INTENT: first["metadata"]["resourceVersion"]})
    result = Created.CREATED
    try:
        api.request("POST", own_path("memorypressurepolicies"), body=policy)
        log.info("default policy %s created from ConfigMap %s/%s", made, namespace, name)
    except ApiRefused as refusal:
        if not refusal.conflict:
            _annotate(api, path, {INTENT: None})  # nothing was made, for certain
            if refusal.status not in (400, 422):
                raise
            log.error("no default policy: ConfigMap %s/%s, key %s: %s", namespace, name, KEY, refusal.message)
            return Created.INVALID
        result = Created.EXISTS
    _annotate(api, path, {MARK: _now(), INTENT: None})
    return result


def _annotate(api: Api, path: str, annotations: dict[str, str | None]) -> None:
    api.request("PATCH", path, body={"metadata": {"annotations": annotations}}, content_type=MERGE_PATCH)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _was_made(api: Api, name: str, since: str) -> bool:
    """Whether a policy of this name was made after `since`, also if it is gone again; True where nobody knows."""
    query = {
        "watch": "1",
        "resourceVersion": since,
        "timeoutSeconds": str(HISTORY_SECONDS),
        "fieldSelector": f"metadata.name={name}",
    }
    try:
        with api.stream(own_path("memorypressurepolicies"), query, 10.0 * HISTORY_SECONDS) as lines:
            kinds = [json.loads(line)["type"] for line in lines]
    except ApiRefused as refusal:
        if refusal.status != 410:
            raise
        kinds = ["ERROR"]
    if "ERROR" in kinds:
        log.warning(
            "default policy %s: an earlier operator ended while it made it, too long ago to know whether it was made; "
            "it counts as made. If there never was one: kubectl create it from the chart's ConfigMap",
            name,
        )
    return bool(kinds)


def _read(config_map: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(policy object, "") or ({}, what is wrong)."""
    text = (config_map.get("data") or {}).get(KEY)
    if text is None:
        return {}, f"missing; put a MemoryPressurePolicy there (keys now: {sorted(config_map.get('data') or {})})"
    try:
        policy = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # the last two: dates, numbers, depth that are none
        return {}, f"not YAML: {' '.join(str(error).split())}"
    try:
        parse_policy(policy)
    except SpecError as error:
        return {}, str(error)
    return policy, ""
