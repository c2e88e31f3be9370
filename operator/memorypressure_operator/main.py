"""Wiring: makes the parts, starts their threads, runs kopf in the main thread, and ends all of it in order."""

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import kopf
import msgspec

from memorypressure.version import VERSION
from memorypressure_operator import api as api_module
from memorypressure_operator import check, cleanup, explain, footprint, startup
from memorypressure_operator.api import Api
from memorypressure_operator.errors import CredentialsError, OperatorError, SettingsError
from memorypressure_operator.events import EventWriter
from memorypressure_operator.handlers import make_registry
from memorypressure_operator.health import Health, HealthServer
from memorypressure_operator.leader import Leader, LeaderSettings, LeaderThread
from memorypressure_operator.metrics import Ages, Metrics
from memorypressure_operator.pods import PodModel, pod_view
from memorypressure_operator.reconcile import DecisionLoop
from memorypressure_operator.registry import Registry
from memorypressure_operator.reports import PlanModel, StateModel, plan_view, state_view
from memorypressure_operator.settings import Settings
from memorypressure_operator.sinks import TableSink
from memorypressure_operator.streams import Source, Stream
from memorypressure_operator.views import (
    BudgetModel,
    NamespaceModel,
    NodeModel,
    budget_view,
    namespace_view,
    node_view,
    unknown_budget,
)

log = logging.getLogger(__name__)


def _by_name(meta: Any) -> str:
    return sys.intern(meta.name)


SOURCES = (
    Source("nodes", "/api/v1/nodes", key=_by_name, model=NodeModel, view=node_view),
    Source(
        "nodememorystates",
        api_module.own_path("nodememorystates"),
        key=_by_name,
        model=StateModel,
        view=state_view,
    ),
    Source("nodememoryplans", api_module.own_path("nodememoryplans"), key=_by_name, model=PlanModel, view=plan_view),
    Source("namespaces", "/api/v1/namespaces", key=_by_name, model=NamespaceModel, view=namespace_view),
    Source(
        "poddisruptionbudgets",
        "/apis/policy/v1/poddisruptionbudgets",
        key=lambda meta: (meta.namespace, meta.name),
        model=BudgetModel,
        view=budget_view,
        stand_in=lambda meta: unknown_budget(meta.namespace),
    ),
    Source("pods", "/api/v1/pods", key=lambda meta: meta.uid, model=PodModel, view=pod_view),
)


def boot_seconds() -> float:
    """Seconds since boot with the time that the machine slept: a Lease goes on running out while it does."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Operator:
    """All parts of one replica."""

    def __init__(self, settings: Settings, api: Api, clock: Callable[[], float] = boot_seconds) -> None:
        self.settings = settings
        self.api = api
        self.clock = clock
        self.metrics = Metrics()
        self.health = Health(
            clock,
            settings.stuck_seconds,
            silence_seconds=2 * settings.stream_read_timeout_seconds + settings.backoff_limit_seconds,
            unready_seconds=settings.unready_seconds,
            troubles=api.troubles.lasting,
        )
        api.observe = self.metrics.observe_request
        self.registry = Registry(clock, settings.coalesce_seconds)
        self.leader = Leader(api, _leader_settings(settings), clock, installation=api.own_uid)
        self.health.leads = self.leader.holds
        self.metrics.leader.set_function(self.leader.holds)  # asked when it is scraped
        self.events = EventWriter(api, settings.identity, self.metrics.events_failed.inc)
        self.loop = DecisionLoop(
            settings,
            api.fenced(self.leader.holds, self._loop_goes_on),
            self.registry,
            self.leader,
            self.events,
            self.metrics,
            self.health,
            clock,
        )
        self.metrics.registry.register(Ages(self.health, time.time))
        self._leader_thread = LeaderThread(self.leader, settings.renew_seconds, self._leadership)
        self._settled = threading.Event()
        self._streams = [self._stream(source) for source in SOURCES]
        self.stopping = threading.Event()

    def _stream(self, source: Source) -> Stream:
        settings, name = self.settings, source.name
        up, restarts = self.metrics.stream_up.labels(name), self.metrics.stream_restarts
        self.health.streams[name] = lambda: self.registry.synced(name)

        def synced(_: str) -> None:
            up.set(1)
            if self.registry.complete() and not self._settled.is_set():
                self._settled.set()
                footprint.settle()

        def heard(_: str) -> None:
            self.health.heard[name] = self.clock()

        def opened(_: str) -> None:
            self.health.opened[name] = self.clock()

        def restarted(why: str) -> None:
            restarts.labels(name, why).inc()
            self.loop.recheck_policies()  # kopf does not tell of objects deleted while its watch was broken

        stream = Stream(
            self.api,
            source,
            TableSink(self.registry, name, on_synced=synced, on_heard=heard, on_opened=opened),
            lifetime_seconds=settings.stream_lifetime_seconds,
            read_timeout_seconds=settings.stream_read_timeout_seconds,
            page_size=settings.page_size,
            backoff_seconds=settings.backoff_seconds,
            backoff_limit_seconds=settings.backoff_limit_seconds,
            on_restart=restarted,
        )
        self.health.misread[name] = stream.misread
        self.metrics.misread.labels(name).set_function(lambda: len(stream.misread()))
        return stream

    def _loop_goes_on(self) -> None:
        self.health.loop_progress = self.clock()

    def _leadership(self) -> None:
        self.health.policy_echo_due = None  # what was written before may have come back while nobody listened
        self.registry.dirty.add(list(self.registry.tables.nodes))

    def start(self) -> None:
        """Starts every thread; kopf is not among them."""
        self.health.phase = "running"
        self.health.waiting_for = ""
        threads: list[threading.Thread] = [*self._streams, self._leader_thread, self.events, self.loop]
        for thread in threads:
            self.health.threads[thread.name] = thread.is_alive
            thread.start()

    def failed(self) -> list[str]:
        """Names of threads that have ended although nobody asked them to."""
        return [name for name, alive in self.health.threads.items() if not alive()]

    def stop(self) -> None:
        """Ends the threads in the order in which nothing acts after the Lease is given back."""
        self.loop.stop()
        self._leader_thread.stop()
        for stream in self._streams:
            stream.stop()
        limit = self.settings.request_timeout_seconds + 2
        if self.loop.ident is not None:
            self.loop.join(limit)
            self._leader_thread.join(limit)
        if self.loop.is_alive():
            log.warning("the decision loop is still busy; the lease runs out by itself")
        else:
            self.leader.release()
        self.events.stop()
        if self.events.ident is not None:
            self.events.join(limit)


def _leader_settings(settings: Settings) -> LeaderSettings:
    return LeaderSettings(
        namespace=settings.namespace,
        name=settings.lease_name,
        identity=settings.identity,
        lease_seconds=settings.lease_seconds,
        renew_deadline_seconds=settings.renew_deadline_seconds,
        renew_seconds=settings.renew_seconds,
        renew_timeout_seconds=settings.renew_timeout_seconds,
    )


def run(settings: Settings) -> int:
    """Runs the operator until SIGTERM or SIGINT (0) or until a part of it fails (1)."""
    log_to_stderr(settings.log_level)
    footprint.prepare()
    api = connect(settings)
    operator = Operator(settings, api)
    health_server, metrics_server = _serve(operator)
    log.info(
        "memorypressure-operator %s as %s in namespace %s; metrics port %d, health port %d",
        VERSION,
        settings.identity,
        settings.namespace,
        metrics_server.server_port,
        health_server.port,
    )
    stopping = operator.stopping
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        if not startup.wait(
            api,
            stopping,
            settings.backoff_seconds,
            settings.backoff_limit_seconds,
            lambda problem: setattr(operator.health, "waiting_for", problem),
            operator.clock,
        ):
            return 0
        operator.start()
        return asyncio.run(_kopf(operator))
    finally:
        operator.stop()
        health_server.stop()
        metrics_server.shutdown()
        log.info("ended")


async def _kopf(operator: Operator) -> int:
    """Kopf in this thread's loop until a signal or a failure; 1 if it or one of our threads failed.

    kopf takes the signals for itself, and after one of them waits 5 s for tasks that never end. So we take them back
    when it has started, and cancel it: that takes no time.
    """
    ready = asyncio.Event()
    registry = make_registry(operator.registry, operator.api.credentials, operator.settings)
    work = asyncio.create_task(
        kopf.operator(registry=registry, clusterwide=True, standalone=True, ready_flag=ready), name="kopf"
    )

    async def watch() -> None:
        ours = False
        while not operator.failed() and not operator.stopping.is_set():
            await asyncio.sleep(0.2)
            if ready.is_set() and not ours:
                ours = True
                for number in (signal.SIGTERM, signal.SIGINT):
                    asyncio.get_running_loop().add_signal_handler(number, operator.stopping.set)
        work.cancel()

    watcher = asyncio.create_task(watch(), name="watch-threads")
    try:
        await work
    except asyncio.CancelledError:
        log.debug("kopf was ended")
    except Exception:
        log.exception("kopf failed")
        return 1
    finally:
        watcher.cancel()
    failed = operator.failed()
    if failed:
        log.error("ended because threads failed: %s", ", ".join(failed))
        return 1
    return 0


def clean_up(settings: Settings) -> int:
    """The command `cleanup`; its exit code."""
    log_to_stderr(settings.log_level)
    api = connect(settings)
    leader = Leader(api, _leader_settings(settings), boot_seconds, installation=api.own_uid)
    return cleanup.run(settings, api, leader)


def explain_node(settings: Settings, node: str, output: str) -> int:
    """The command `explain`; its exit code."""
    log_to_stderr("error")
    try:
        return explain.run(settings, connect(settings), node, output)
    except (OperatorError, msgspec.MsgspecError) as error:
        if isinstance(error, CredentialsError):
            raise
        print(f"memorypressure-operator: {error}", file=sys.stderr)
        return 1


def check_all(settings: Settings, metrics_url: str, wait_seconds: float) -> int:
    """The command `check`; its exit code."""
    log_to_stderr("error")
    try:
        return check.run(connect(settings), metrics_url, wait_seconds)
    except msgspec.MsgspecError as error:
        print(f"memorypressure-operator: {error}", file=sys.stderr)
        return 1


def connect(settings: Settings) -> Api:
    """The API server that the settings name. Raises CredentialsError."""
    return api_module.connect(
        settings.kubeconfig, settings.request_timeout_seconds, settings.token_reload_seconds, time.monotonic
    )


def _serve(operator: Operator) -> tuple[HealthServer, Any]:
    settings = operator.settings
    try:
        health_server = HealthServer(operator.health, settings.bind_address, settings.health_port)
    except OSError as error:
        raise SettingsError(f"--health-port {settings.health_port}: cannot be used: {error}") from None
    try:
        metrics_server, _ = operator.metrics.serve(settings.bind_address, settings.metrics_port)
    except OSError as error:
        raise SettingsError(f"--metrics-port {settings.metrics_port}: cannot be used: {error}") from None
    health_server.start()
    return health_server, metrics_server


def log_to_stderr(level: str) -> None:
    """Our log on standard error; kopf's and urllib3's only where something is wrong."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    if level != "debug":
        logging.getLogger("kopf").setLevel(logging.WARNING)
