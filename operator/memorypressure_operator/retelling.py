"""Evictions told on pod and node; and once more those that an earlier process recorded: it may have ended before.

The names of these Events follow from the pod alone, so whatever was told already is refused by the API server.
"""

from memorypressure.reasons import Reason
from memorypressure_operator.events import Event, EventWriter, node_subject, pod_subject
from memorypressure_operator.evictions import NAMED_SECONDS, EvictionLog
from memorypressure_operator.registry import Registry
from memorypressure_operator.views import NodeView

RETOLD_SECONDS = NAMED_SECONDS
"""Well below the hour for which Events are kept: what was told must still be there to be refused."""


def tell_eviction(events: EventWriter, node: NodeView, uid: str, pod: tuple[str, str] | None, note: str) -> None:
    """Tells of an eviction on the pod and on its node; `pod`: its namespace and name, None where they are not known."""
    key, on_node = f"{node.uid}/eviction/{uid}", node_subject(node)
    subject = pod_subject(*pod, uid) if pod is not None else None
    if subject is not None:
        events.tell(Event(key, subject, "EvictPod", Reason.EVICTED, note, related=on_node))
    events.tell(Event(key, on_node, "EvictPod", Reason.EVICTED, note, related=subject))


def retell(record: EvictionLog, registry: Registry, events: EventWriter) -> None:
    """Tells of those recorded evictions whose pods are ending or gone: of the others nothing came."""
    for each in record.records:
        if each.cleanup or each.age_seconds > RETOLD_SECONDS:
            continue
        with registry.lock:
            node = registry.tables.nodes.get(each.node)
            pod = registry.tables.pods.get(each.uid)
        if node is None or (pod is not None and not pod.terminating):
            continue
        named = (pod.namespace, pod.name) if pod else each.pod
        called = f"pod {named[0]}/{named[1]}" if named else f"a pod of {each.workload} ({each.uid})"
        state = "is ending" if pod else "is gone"
        why = f"its eviction from node {node.name} for memory pressure was recorded by an operator that has ended since"
        tell_eviction(events, node, each.uid, named, f"{called} {state}: {why}")
