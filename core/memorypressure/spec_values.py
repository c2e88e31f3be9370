"""The frozen values that a MemoryPressurePolicy becomes: what users write, with every default filled in."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from memorypressure.zones import Line


class Mode(StrEnum):
    """What is done about pressure: nothing, a report of what would be done, or the real thing."""

    DISABLED = "Disabled"
    DRY_RUN = "DryRun"
    ENFORCE = "Enforce"


class TriggerType(StrEnum):
    """What a trigger observes."""

    ZONE_WATERMARK = "ZoneWatermark"
    AVAILABLE_MEMORY = "AvailableMemory"
    PSI = "PSI"


class NodesScope(StrEnum):
    """How many of a machine's NUMA nodes must be below a line."""

    ANY_NODE = "AnyNode"
    ALL_NODES = "AllNodes"


class Match(StrEnum):
    """How many of a step's triggers must be active."""

    ANY = "Any"
    ALL = "All"


class Action(StrEnum):
    """The steps of a ladder, mildest first: the order of definition is the order they must have in a ladder."""

    TAINT = "Taint"
    EVICT = "Evict"
    KILL = "Kill"


class KillUnit(StrEnum):
    """What dies as a whole: all containers of the pod, or the one whose end gives most memory back."""

    POD = "Pod"
    CONTAINER = "Container"


class TaintEffect(StrEnum):
    """The effects our taint may have; never NoExecute, which would evict without any budget."""

    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_SCHEDULE = "NoSchedule"


class QosClass(StrEnum):
    """The kubelet's quality of service classes."""

    BEST_EFFORT = "BestEffort"
    BURSTABLE = "Burstable"
    GUARANTEED = "Guaranteed"


class Criterion(StrEnum):
    """What victims are ranked by."""

    OVER_REQUEST = "OverRequest"
    PRIORITY = "Priority"
    RELIEF = "Relief"
    YOUNGEST = "Youngest"


class Unprotected(StrEnum):
    """Groups of pods that are protected unless the policy names them."""

    STATIC_PODS = "StaticPods"
    DAEMON_SET_PODS = "DaemonSetPods"
    UNMANAGED_PODS = "UnmanagedPods"
    PODS_WITH_LOCAL_STORAGE = "PodsWithLocalStorage"
    SINGLETON_WORKLOADS = "SingletonWorkloads"
    DISRUPTION_BUDGETS = "DisruptionBudgets"
    ANNOTATED_PODS = "AnnotatedPods"


class PsiScope(StrEnum):
    """Whose stalls are read: the whole machine's, or those of the pods' cgroup."""

    NODE = "Node"
    PODS = "Pods"


class PsiKind(StrEnum):
    """Some tasks stalled, or all of them at once."""

    SOME = "Some"
    FULL = "Full"


class SelectorOperator(StrEnum):
    """How a label relates to the values of a requirement."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class TakenBy(StrEnum):
    """Who must have taken the pages that a NUMA node lacks to min."""

    ANY = "Any"
    BUFFERS = "Buffers"
    """Memory that belongs to no process, cache or compressed swap: the network's and other drivers'; see `takers`."""


@dataclass(frozen=True, slots=True)
class ZoneWatermark:
    """Free pages of a NUMA node's counted zones against a line; `margin_percent` raises the mark, not the reserve."""

    line: Line
    nodes: NodesScope
    margin_percent: int
    below_ms: int
    within_ms: int
    taken_by: TakenBy = TakenBy.ANY


@dataclass(frozen=True, slots=True)
class AvailableMemory:
    """MemAvailable under `percent` of MemTotal without huge pages, between the two bounds; None: not looked at.

    `at_least_bytes` counts up to a tenth of that memory.
    """

    percent: int
    at_most_bytes: int | None
    swap_free_percent: int | None
    at_least_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PsiSettings:
    """The average over `window_seconds` (10, 60 or 300) at or above `threshold_percent` of the time."""

    scope: PsiScope
    kind: PsiKind
    window_seconds: int
    threshold_percent: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """A named observation; exactly the member of its type is set."""

    name: str
    type: TriggerType
    zone_watermark: ZoneWatermark | None = None
    available_memory: AvailableMemory | None = None
    psi: PsiSettings | None = None

    @property
    def asks_who_took(self) -> bool:
        """Whether it matters who took the pages that are lacking."""
        return self.zone_watermark is not None and self.zone_watermark.taken_by is not TakenBy.ANY


@dataclass(frozen=True, slots=True)
class TaintSettings:
    """The taint's effect, and how long the node must have been clear before it goes."""

    effect: TaintEffect
    hold_seconds: int


@dataclass(frozen=True, slots=True)
class EvictSettings:
    """The grace period sent with an eviction, instead of the pod's own."""

    grace_period_seconds: int


@dataclass(frozen=True, slots=True)
class KillSettings:
    """What is killed as a whole."""

    unit: KillUnit


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a ladder; exactly the settings of its action are set."""

    action: Action
    triggers: tuple[str, ...]
    match: Match
    after_seconds: int
    taint: TaintSettings | None = None
    evict: EvictSettings | None = None
    kill: KillSettings | None = None


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression of a label selector, with the meaning it has in Kubernetes."""

    key: str
    operator: SelectorOperator
    values: frozenset[str]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet it; as in Kubernetes, NotIn is also met by a label that is not there."""
        match self.operator:
            case SelectorOperator.IN:
                return self.key in labels and labels[self.key] in self.values
            case SelectorOperator.NOT_IN:
                return self.key not in labels or labels[self.key] not in self.values
            case SelectorOperator.EXISTS:
                return self.key in labels
            case SelectorOperator.DOES_NOT_EXIST:
                return self.key not in labels


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """A Kubernetes label selector; an empty one matches everything."""

    match_labels: tuple[tuple[str, str], ...] = ()
    match_expressions: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels meet every part of it."""
        return all(labels.get(key) == value for key, value in self.match_labels) and all(
            requirement.matches(labels) for requirement in self.match_expressions
        )


@dataclass(frozen=True, slots=True)
class VictimRules:
    """Which pods may be chosen, and by what they are ranked."""

    order: tuple[Criterion, ...]
    max_priority: int
    qos_classes: frozenset[QosClass]
    pod_selector: LabelSelector
    namespace_selector: LabelSelector
    min_relief_bytes: int
    min_age_seconds: int
    unprotected: frozenset[Unprotected]


@dataclass(frozen=True, slots=True)
class Share:
    """A count, or a percentage of some whole: exactly one of the two is set."""

    count: int | None = None
    percent: int | None = None

    def of(self, whole: int) -> int:
        """The count, or the percentage of `whole` rounded up and at least 1."""
        if self.percent is None:
            return self.count or 0
        return max(1, -(-whole * self.percent // 100))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a policy may do, per node and in the whole cluster."""

    cooldown_seconds: int
    max_victims_per_episode: int
    max_victims_per_workload: Share
    max_concurrent_nodes: Share
    evictions_per_hour: int
    kills_per_hour: int
    max_standing_kills: Share
    grant_seconds: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A valid MemoryPressurePolicy; `uid`, `generation` and `creation_time` are empty or 0 in a file."""

    name: str
    uid: str
    generation: int
    creation_time: str
    mode: Mode
    priority: int
    node_selector: LabelSelector
    triggers: tuple[Trigger, ...]
    ladder: tuple[Step, ...]
    victims: VictimRules
    limits: Limits
