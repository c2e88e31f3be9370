"""One size measured: a control plane, the cluster in it, the real operator process, everything from outside."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from memorypressure_tools.controlplane import ControlPlane, Options
from memorypressure_tools.scale import observe, shapes
from memorypressure_tools.scale.etcd import Etcd
from memorypressure_tools.scale.fixture import HOME, REPOSITORY, Fixture
from memorypressure_tools.scale.moves import Moves
from memorypressure_tools.scale.writers import Agents, Writers, heartbeats, pressure

Result = dict[str, Any]

READY_SECONDS: Final = 300.0
REST_SECONDS: Final = 240.0
QUIET_SECONDS: Final = 5.0
BEAT_SECONDS: Final = 300.0
"""A node's heartbeat: a third of grantSeconds."""
BASELINE: Final = "import kopf, kubernetes.client.api_client, msgspec, prometheus_client, yaml"


class ScaleError(Exception):
    """A measurement could not be made; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured; `rate` status changes a second at the largest size, in proportion below but at least 5."""

    nodes: int
    pods_a_node: int = 22
    mode: str = "Enforce"
    rate: float = 50.0
    idle_seconds: float = 40.0
    load_seconds: float = 30.0
    moves: bool = True
    profile: bool = False


class Operator:
    """The operator's process."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._file = log.open("wb")
        self.log = log
        clean = {k: v for k, v in os.environ.items() if k != "KUBECONFIG" and not k.startswith("MPO_")}
        self.started = time.monotonic()
        self.child = subprocess.Popen(command, stdout=self._file, stderr=self._file, env=clean)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    def check(self) -> None:
        """Raises ScaleError when it ended."""
        if self.child.poll() is not None:
            text = self.log.read_text(errors="replace")[-3000:]
            raise ScaleError(f"the operator ended with code {self.child.returncode}:\n{text}")

    def ports(self) -> tuple[int, int] | None:
        """(metrics, health), once they are in the log."""
        self.check()
        found = re.search(r"metrics port (\d+), health port (\d+)", self.log.read_text(errors="replace"))
        return (int(found.group(1)), int(found.group(2))) if found else None

    def ready(self) -> bool:
        """Whether /readyz says 200 now."""
        ports = self.ports()
        if ports is None:
            return False
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/readyz", timeout=10) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, TimeoutError):
            return False

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        ports = self.ports()
        if ports is None:
            raise ScaleError("the operator has no metrics port yet")
        with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{name}(\{{| )", line))

    def stop(self) -> None:
        """Ends it: TERM, after 20 s KILL."""
        self.child.terminate()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait(10)
        self._file.close()


def baseline_mib() -> float:
    """RSS of a bare interpreter that has imported the operator's libraries: what no cluster size changes."""
    text = f"{BASELINE}\nprint(next(l for l in open('/proc/self/status') if l.startswith('VmRSS')).split()[1])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def measure(plan: Plan, tell: Callable[[str], None]) -> Result:
    """All figures of one size. Raises ScaleError, ControlPlaneError, ToolMissingError."""
    with _plane() as (plane, audit_log):
        return _Measurement(plan, plane, audit_log, tell).run()


@contextlib.contextmanager
def _plane() -> Iterator[tuple[ControlPlane, Path]]:
    """A control plane without controllers (nothing but the operator moves), with an audit log of its writes."""
    home = REPOSITORY / "build" / "scale"
    home.mkdir(parents=True, exist_ok=True)
    policy, log = home / "audit-policy.json", home / f"audit-{os.getpid()}.log"
    policy.write_text(json.dumps(observe.AUDIT_POLICY))
    options = Options(
        controller_manager=False,
        scheduler=False,
        apiserver_flags=[f"--audit-policy-file={policy}", f"--audit-log-path={log}", "--event-ttl=10m"],
        etcd_flags=["--quota-backend-bytes=8589934592", "--snapshot-count=10000"],
    )
    try:
        with ControlPlane(options) as plane:
            yield plane, log
    finally:
        for left in home.glob(f"audit-{os.getpid()}*.log"):
            left.unlink()


class _Measurement:
    def __init__(self, plan: Plan, plane: ControlPlane, audit_log: Path, tell: Callable[[str], None]) -> None:
        self._plan = plan
        self._plane = plane
        self._tell = tell
        self._audit = observe.Audit(audit_log)
        self._result: Result = {"plan": dataclasses.asdict(plan), "baseline_rss_mib": round(baseline_mib(), 1)}

    def run(self) -> Result:
        plan, plane = self._plan, self._plane
        self._install()
        with contextlib.closing(plane.etcd_client()) as client:
            cluster = Fixture(plane.admin, Etcd(client), self._tell).fill(plan.nodes, plan.pods_a_node, mode=plan.mode)
        self._result["cluster"] = dataclasses.asdict(cluster)
        writers = Writers(plane.url, str(plane.authority.certificate_file), plane.admin_identity)
        agents = Agents([shapes.node_name(number) for number in range(plan.nodes)])
        decision_log = plane.directory / "decisions.tsv"
        operator = self._start(decision_log)
        try:
            self._cpu = observe.Cpu({"operator": operator.pid, **plane.pids})
            self._synced(operator)
            self._rest(operator, agents)
            self._next_part(operator)
            self._idle(operator, agents, writers)
            self._next_part(operator)
            self._load(operator, agents, writers, decision_log)
            if plan.moves:
                moves = Moves(plane, self._audit, operator.pid, plan.nodes, self._tell)
                self._result["moves"] = {"few": moves.few(), "all": moves.everything()}
            operator.check()
        finally:
            log = operator.log.read_text(errors="replace")
            operator.stop()
        self._result["warnings_in_log"] = [line[:300] for line in log.splitlines() if re.search(r"WARN|ERROR", line)][
            :20
        ]
        return self._result

    def _next_part(self, operator: Operator) -> None:
        """The profile's next part: what the operator does at rest is not to be lost in what it did until then."""
        if self._plan.profile:
            operator.child.send_signal(signal.SIGUSR1)

    def _install(self) -> None:
        words = [word for file in sorted((REPOSITORY / "crds").glob("*.yaml")) for word in ("-f", str(file))]
        self._plane.kubectl("apply", "--server-side", *words)
        self._plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", *words)
        binding = {
            "metadata": {"name": "scale-operator"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "scale-operator"}],
        }
        self._plane.admin.must("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)

    def _start(self, decision_log: Path) -> Operator:
        config = self._plane.write_kubeconfig("operator", identity=self._plane.identity("scale-operator"))
        command = [str(Path(sys.executable).with_name("memorypressure-operator")), "run"]
        if self._plan.profile:
            profile = REPOSITORY / "build" / "scale" / f"profile-{self._plan.nodes}"
            command = [sys.executable, "-m", "memorypressure_tools.scale.profiled", str(profile), "run"]
        settings = {
            "kubeconfig": str(config),
            "namespace": HOME,
            "identity": "scale",
            "bind-address": "127.0.0.1",
            "metrics-port": "0",
            "health-port": "0",
            "decision-log": str(decision_log),
        }
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        return Operator([*command, *words], REPOSITORY / "build" / "scale" / f"operator-{self._plan.nodes}.log")

    def _synced(self, operator: Operator) -> None:
        end = time.monotonic() + READY_SECONDS
        while not operator.ready():
            if time.monotonic() > end:
                raise ScaleError(f"not ready after {READY_SECONDS:.0f} s; see {operator.log}")
            time.sleep(0.1)
        seconds = time.monotonic() - operator.started
        shares = self._cpu.look()
        self._result["sync"] = {
            "seconds": round(seconds, 2),
            "cpu_percent": {name: round(share, 1) for name, share in shares.items()},
            "cpu_seconds": observe.cpu_seconds(operator.pid),
            **_rounded(observe.memory(operator.pid)),
        }
        self._tell(f"synced after {seconds:.1f} s, RSS {self._result['sync']['rss_mib']:.0f} MiB")

    def _rest(self, operator: Operator, agents: Agents) -> None:
        """Until nothing is written any more but heartbeats: statuses, the ledger and the first allowances are out."""
        started, quiet_since, total = time.monotonic(), time.monotonic(), dict[str, int]()
        while time.monotonic() - quiet_since < QUIET_SECONDS or not self._is_told():
            if time.monotonic() - started > REST_SECONDS:
                self._result["rest"] = {"seconds": None, "writes": total}
                self._tell(f"no rest within {REST_SECONDS:.0f} s: {total}")
                return
            time.sleep(0.5)
            operator.check()
            written = {key: count for key, count in self._audit.writes().items() if "leases" not in key}
            for key, count in written.items():
                total[key] = total.get(key, 0) + count
            if written or operator.metric("memorypressure_operator_queue_nodes"):
                quiet_since = time.monotonic()
        seconds = quiet_since - operator.started
        self._result["rest"] = {"seconds": round(seconds, 1), "writes": total, **_rounded(observe.memory(operator.pid))}
        self._tell(f"at rest {seconds:.1f} s after the start; writes until then: {total or 'none'}")
        for answer in self._plane.admin.must("GET", f"{shapes.GROUP}/nodememorystates?limit=500")["items"]:
            agents.heard(answer["metadata"]["name"], answer)

    def _is_told(self) -> bool:
        """Whether the policy's status tells of every allowance: of thousands of nodes up to half a minute later."""
        if self._plan.mode != "Enforce":
            return True
        admin = self._plane.admin
        status = admin.must("GET", f"{shapes.GROUP}/memorypressurepolicies/{shapes.POLICY}").get("status") or {}
        path = f"/api/v1/namespaces/{HOME}/configmaps/memory-pressure-ledger-{shapes.POLICY}"
        entries = json.loads(admin.must("GET", path)["data"]["ledger"])["entries"]
        standing = sum(max(0, entry["ceiling"] - entry["counted"]) for entry in entries)
        return bool((status.get("exposure") or {}).get("standingKills") == standing)

    def _idle(self, operator: Operator, agents: Agents, writers: Writers) -> None:
        plan = self._plan
        self._audit.writes()
        self._cpu.look()
        rate = plan.nodes / BEAT_SECONDS
        started = time.monotonic()
        sent = writers.run(agents, heartbeats(agents), rate, plan.idle_seconds, lambda _: None)
        left = plan.idle_seconds - (time.monotonic() - started)
        if left > 0:
            time.sleep(left)
        span = time.monotonic() - started
        shares, writes = self._cpu.look(), self._audit.writes()
        memory = _rounded(observe.memory(operator.pid))
        self._result["idle"] = {
            "seconds": round(span, 1),
            "heartbeats": len(sent),
            "cpu_percent": {name: round(share, 2) for name, share in shares.items()},
            "writes": writes,
            "writes_a_second": round(sum(writes.values()) / span, 2),
            **memory,
        }
        self._tell(
            f"idle: {shares['operator']:.2f} % of a core, RSS {memory['rss_mib']:.0f} MiB, "
            f"{rate:.1f} heartbeats/s, writes {writes}"
        )

    def _load(self, operator: Operator, agents: Agents, writers: Writers, decision_log: Path) -> None:
        plan = self._plan
        self._audit.writes()
        self._cpu.look()
        started = time.monotonic()

        def told(count: int) -> None:
            if count and int(time.monotonic() - started) % 10 == 0:
                self._tell(f"load: {count:,} status changes so far, {plan.load_seconds:.0f} s in all")

        reports = writers.run(agents, pressure(agents), plan.rate, plan.load_seconds, told)
        span = time.monotonic() - started
        shares = self._cpu.look()
        time.sleep(2.0)
        rows, missed = observe.latencies(reports, observe.decisions(decision_log))
        decided = observe.summary(rows, 2)
        answered = observe.summary(rows, 1)
        problems = [report.problem for report in reports if report.problem]
        if not rows:
            raise ScaleError(f"no report led to a decision; {len(problems)} were refused: {problems[:3]}")
        self._result["load"] = {
            "asked_a_second": plan.rate,
            "got_a_second": round(len(rows) / span, 1),
            "refused": problems[:5],
            "not_decided": missed,
            "decision_ms": {name: round(value, 1) for name, value in decided.items()},
            "api_answer_ms": {name: round(value, 1) for name, value in answered.items()},
            "p99_of_each_second_ms": [round(value, 1) for value in observe.windows(rows, 2, 99)],
            "cpu_percent": {name: round(share, 1) for name, share in shares.items()},
            "writes": self._audit.writes(),
            **_rounded(observe.memory(operator.pid)),
        }
        self._tell(
            f"load {len(rows) / span:.0f}/s: write to decision p50 {decided['p50_ms']:.1f} p99 {decided['p99_ms']:.1f} "
            f"worst {decided['worst_ms']:.0f} ms (the API's own answer p99 {answered['p99_ms']:.1f}), "
            f"operator {shares['operator']:.1f} % of a core"
        )


def _rounded(memory: observe.Memory) -> dict[str, float]:
    return {name: round(value, 1) for name, value in dataclasses.asdict(memory).items()}
