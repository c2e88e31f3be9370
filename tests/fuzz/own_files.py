"""What holds of the parsers of orders, recordings, policies and the count of the kernel log, for any input."""

import contextlib
import io
from collections.abc import Iterator

from fuzz.places import FIXTURES, PAGE, scratch
from support.sentinellab import candidate, grant_for
from support.sentinellab import orders as orders_of

from memorypressure.orders import OrdersError, decode, encode
from memorypressure.spec_values import Mode
from memorypressure.victims import is_pod_uid
from memorypressure_agent.errors import BadInputError
from memorypressure_agent.kernel_log import failures
from memorypressure_agent.policy_file import load_policy
from memorypressure_agent.replay.samples import to_sample
from memorypressure_agent.replay.timeline import read_timeline


def orders(data: bytes) -> None:
    """What is understood is written again as the same; no pod's UID leads anywhere."""
    try:
        found = decode(data)
    except OrdersError as refusal:
        if len(str(refusal)) > 2000:
            raise AssertionError("the error is too long for a log line") from refusal
        return
    assert decode(encode(found)) == found
    assert all(is_pod_uid(pod.uid) for pod in found.pods)
    assert found.grant is None or found.grant.kills_ceiling >= 0


def order_files() -> Iterator[bytes]:
    pods = [candidate(f"8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c{number:04x}", f"web-{number}") for number in range(2)]
    yield encode(orders_of(*pods, grant=grant_for("0123456789abcdef.boot", ceiling=2)))
    yield encode(orders_of(mode=Mode.DRY_RUN))


def recording(data: bytes) -> None:
    """Samples in order of time, each with a value for the core, or a sentence that names file and line."""
    before = None
    with contextlib.suppress(BadInputError):
        for recorded in read_timeline("recording", io.BytesIO(data)):
            sample = to_sample("recording", recorded, PAGE)
            assert before is None or sample.time_ns >= before  # equal where times are coarser than the samples
            before = sample.time_ns
            assert all(zone.free is None or zone.free >= 0 for zone in recorded.zones)


def recordings() -> Iterator[bytes]:
    for file in sorted(FIXTURES.glob("timelines/*.csv")):
        yield file.read_bytes()[:3000]
    for file in sorted(FIXTURES.glob("captures/*.csv")):
        yield b"\n".join(file.read_bytes().split(b"\n")[:12]) + b"\n"


def policy(data: bytes) -> None:
    """A policy, or sentences about the file."""
    path = scratch / "policy.yaml"
    path.write_bytes(data)
    with contextlib.suppress(BadInputError):
        found = load_policy(path).policy
        assert found.ladder
        assert found.name


def allocation_failures(data: bytes) -> None:
    """What is understood is written again as the same, and is not negative."""
    with contextlib.suppress(failures.FailuresError):
        found, written_ns, problem = failures.decode(data)
        assert min(found.atomic, found.other, found.unknown) >= 0
        again = failures.decode(failures.encode(found, written_ns, problem))
        assert again == (found, written_ns, problem[:500])
