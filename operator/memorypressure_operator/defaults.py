"""The default policy: created once from a ConfigMap of the chart, and never again once it was.

A policy in the chart itself would fail a first install, before its CRD is served. The mark is an annotation of the
ConfigMap, so a user may delete the policy and keep it deleted.
"""

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
    if MARK in (config_map["metadata"].get("annotations") or {}):
        return Created.BEFORE
    policy, problem = _read(config_map)
    if problem:
        log.error("no default policy: ConfigMap %s/%s, key %s: %s", namespace, name, KEY, problem)
        return Created.INVALID
    result = Created.CREATED
    try:
        api.request("POST", own_path("memorypressurepolicies"), body=policy)
        log.info("default policy %s created from ConfigMap %s/%s", policy["metadata"]["name"], namespace, name)
    except ApiRefused as refusal:
        if refusal.status in (400, 422):
            log.error("no default policy: ConfigMap %s/%s, key %s: %s", namespace, name, KEY, refusal.message)
            return Created.INVALID
        if not refusal.conflict:
            raise
        result = Created.EXISTS
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    api.request("PATCH", path, body={"metadata": {"annotations": {MARK: stamp}}}, content_type=MERGE_PATCH)
    return result


def _read(config_map: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(policy object, "") or ({}, what is wrong)."""
    text = (config_map.get("data") or {}).get(KEY)
    if text is None:
        return {}, f"missing; put a MemoryPressurePolicy there (keys now: {sorted(config_map.get('data') or {})})"
    try:
        policy = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return {}, f"not YAML: {' '.join(str(error).split())}"
    try:
        parse_policy(policy)
    except SpecError as error:
        return {}, str(error)
    return policy, ""
