"""Failed allocations in the kernel log: what is counted, once, and what the reporter makes of a bad file."""

import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sentinellab import eventually

from memorypressure_agent.host.clocks import boot_ns
from memorypressure_agent.kernel_log.failures import (
    LONGEST_BYTES,
    TAIL_BYTES,
    Failures,
    FailuresError,
    decode,
    encode,
    found_in,
)
from memorypressure_agent.kernel_log.main import BUFFER_BYTES, Watch
from memorypressure_agent.reporter.kernel_log import SILENT_NS, KernelLogFile
from memorypressure_tools.unprivileged import run_as_nobody

SCRIPT = Path(sys.executable).with_name("memorypressure-agent")
CAPTURE = Path(__file__).resolve().parents[1] / "fixtures/captures/kmsg-6.1-paf-1node.txt"
ATOMIC = "swapper/0: page allocation failure: order:0, mode:0xa20(GFP_ATOMIC), nodemask=(null),cpuset=/,mems_allowed=0"


def as_syslog(kmsg: str) -> bytes:
    """Records of /dev/kmsg as syslog(2) gives them."""
    lines = []
    for record in kmsg.splitlines():
        head, _, text = record.partition(";")
        priority, _, microseconds, *_ = head.split(",")
        stamp = f"{int(microseconds) // 10**6:5}.{int(microseconds) % 10**6:06}"
        lines += [f"<{priority}>[{stamp}] {line}" for line in text.split("\\x0a")]
    return ("\n".join(lines) + "\n").encode()


def test_a_captured_flood_has_two_messages_and_tells_how_many_were_left_out() -> None:
    assert found_in(as_syslog(CAPTURE.read_text(encoding="utf-8"))) == Failures(atomic=2, other=0, unknown=769)


@pytest.mark.parametrize(
    ("line", "failures"),
    [
        (ATOMIC, Failures(atomic=1)),
        ("kswapd0: page allocation failure: order:0, mode:0x480020(GFP_ATOMIC), nodemask=(null)", Failures(atomic=1)),
        ("x: page allocation failure: order:3, mode:0x820(GFP_ATOMIC|__GFP_NORETRY|__GFP_COMP)", Failures(atomic=1)),
        ("x: page allocation failure: order:5, mode:0x40cc0(GFP_KERNEL|__GFP_COMP), nodemask=0", Failures(other=1)),
        ("x: page allocation failure: order:0, mode:0x20", Failures(unknown=1)),
        ("SLUB: Unable to allocate memory on node -1, gfp=0xa20(GFP_ATOMIC)", Failures(atomic=1)),
        ("SLUB: Unable to allocate memory on CPU 1 (of node 0) on node -1, gfp=0x820(GFP_ATOMIC)", Failures(atomic=1)),
        ("slab_out_of_memory: 12 callbacks suppressed", Failures(unknown=12)),
        ("net_ratelimit: 5 callbacks suppressed", Failures()),
        ("x invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0", Failures()),
        ("x: vmalloc error: size 4096, page order 0, failed to allocate pages, mode:0xcc0(GFP_KERNEL)", Failures()),
    ],
)
def test_a_line_is(line: str, failures: Failures) -> None:
    assert found_in(f"<4>[   13.216639] {line}\n".encode()) == failures


def test_with_the_callers_name_in_the_time_stamp_a_line_is_found_too() -> None:
    assert found_in(f"<4>[   13.216639][   T14] {ATOMIC}\n".encode()) == Failures(atomic=1)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["append", "clear", "append"])), max_size=60))
def test_each_failure_is_counted_once_while_the_log_grows_wraps_and_is_cleared(
    steps: list[tuple[bool, str]],
) -> None:
    watch, log, expected, number = Watch(), ["<6>[    0.000001] Linux version 6.1\n"], 0, 1
    watch.take("".join(log).encode())
    for failed, what in steps:
        if what == "clear":
            log = []
        for _ in range(3):  # a step writes less than the log holds
            number += 1
            log.append(f"<4>[{number:5}.000000] {ATOMIC if failed else 'all is well'}\n")
            expected += failed
        log = log[-20:]
        watch.take("".join(log).encode())
    assert watch.failures == Failures(atomic=expected)


def test_what_was_in_the_log_before_is_not_counted() -> None:
    watch = Watch()
    watch.take(f"<4>[    1.000000] {ATOMIC}\n".encode() * 3)
    assert watch.failures == Failures()
    assert TAIL_BYTES < BUFFER_BYTES


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not whole JSON"),
        (encode(Failures(), 1)[:-3], "is not whole JSON"),
        (b"[" * 5000, "more than 4096"),
        (b"[" * 4000, "is not whole JSON"),
        (b"[]", "is not of version 1"),
        (json.dumps({"version": 2}).encode(), "is not of version 1"),
        (json.dumps({"version": 1, "writtenBootNs": 1, "problem": ""}).encode(), "lacks failures"),
        (
            json.dumps(
                {**json.loads(encode(Failures(), 1)), "failures": {"atomic": -1, "other": 0, "unknown": 0}}
            ).encode(),
            "not three whole numbers",
        ),
        (
            json.dumps(
                {**json.loads(encode(Failures(), 1)), "failures": {"atomic": True, "other": 0, "unknown": 0}}
            ).encode(),
            "not three whole numbers",
        ),
    ],
)
def test_a_file_that_is_not_understood_is_an_error_with_the_reason(data: bytes, words: str) -> None:
    with pytest.raises(FailuresError, match=re.escape(words)):
        decode(data)
    assert LONGEST_BYTES == 4096


def test_the_reporter_says_why_it_knows_nothing(tmp_path: Path) -> None:
    path = tmp_path / "failures.json"
    file = KernelLogFile(path)
    assert file.read().problem == f"{path}: No such file or directory"
    path.write_bytes(b"{")
    assert "is not whole JSON" in file.read().problem
    path.write_bytes(encode(Failures(1), boot_ns() - SILENT_NS - 10**9))
    assert (file.read().failures, file.read().problem) == (None, f"{path}: written 61 s ago")
    path.write_bytes(encode(Failures(1), boot_ns(), "the kernel log cannot be read"))
    assert (file.read().failures, file.read().problem) == (None, "the kernel log cannot be read")
    path.write_bytes(encode(Failures(1, 2, 3), boot_ns()))
    assert (file.read().failures, file.read().problem) == (Failures(1, 2, 3), "")


@contextlib.contextmanager
def counting(output: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([SCRIPT, "kernel-log", "--output", output, "--period-seconds", "0.1"])
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.needs("root")
def test_the_real_process_counts_what_the_real_kernel_logs(tmp_path: Path) -> None:
    kernel, output = Path("/dev/kmsg"), tmp_path / "failures.json"
    try:
        log = kernel.open("wb", buffering=0)
    except OSError as error:
        pytest.skip(f"{kernel}: {error.strerror}")
    with log, counting(output) as process:
        eventually(lambda: KernelLogFile(output).read().failures == Failures(), "the first look counts nothing")
        log.write(f"<4>test of memory-pressure-operator, no real failure: {ATOMIC}\n".encode())
        eventually(lambda: KernelLogFile(output).read().failures == Failures(atomic=1), "the line is counted")
        time.sleep(0.3)  # and only once
        assert KernelLogFile(output).read().failures == Failures(atomic=1)
        process.terminate()
        assert process.wait(10) == 0


def test_a_file_that_can_be_written_no_longer_is_a_failure_at_run_time(tmp_path: Path) -> None:
    output = tmp_path / "tmpfs" / "failures.json"
    output.parent.mkdir()
    command = [SCRIPT, "kernel-log", "--output", output, "--period-seconds", "0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            eventually(output.exists, "the first look is written")
            output.parent.rename(tmp_path / "away")
            message = process.communicate(timeout=10)[1]
        finally:
            process.kill()
    assert process.returncode == 1, "2 would say that nothing was done"
    assert f"--output {output}: No such file or directory; it was written before" in message


@pytest.mark.needs("root")
def test_without_the_capability_it_goes_on_and_says_what_is_needed() -> None:
    restricted = Path("/proc/sys/kernel/dmesg_restrict").read_text(encoding="ascii").strip() == "1"
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        output = Path(name) / "failures.json"
        with pytest.raises(subprocess.TimeoutExpired):
            run_as_nobody(["kernel-log", "--output", str(output)], timeout_seconds=2)
        problem = KernelLogFile(output).read().problem
    assert ("needs the capability SYSLOG" in problem) == restricted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "{tmp}/missing/x"], "there is no directory {tmp}/missing; create it or mount it there"),
        (["--output", "{tmp}"], "is a directory; name a file in it"),
        (["--output", "{tmp}/link"], "is a link, and a file would be put in its place; name a file"),
        (["--output", "{tmp}/x", "--period-seconds", "0"], "--period-seconds"),
        ([], "--output"),
    ],
)
def test_bad_options_end_with_code_2_and_a_sentence(tmp_path: Path, words: list[str], message: str) -> None:
    given_words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    (tmp_path / "link").symlink_to("elsewhere")
    done = subprocess.run([SCRIPT, "kernel-log", *given_words], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert message.replace("{tmp}", str(tmp_path)) in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.is_symlink()] == ["link"]
