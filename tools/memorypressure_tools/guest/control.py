"""QEMU's control socket (QMP): what of a running machine is changed from outside."""

import json
import socket
from pathlib import Path
from typing import Any, Final

ANSWER_SECONDS: Final = 10.0


class ControlError(Exception):
    """QEMU refused a command or did not answer; the text holds what it said."""


def set_disk_limit(control: Path, serial: str, bytes_per_second: int) -> None:
    """Changes the limit of a disk's reads and writes together; 0: none."""
    limits = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    command(control, "block_set_io_throttle", {"device": serial, "bps": bytes_per_second, **limits})


def command(control: Path, name: str, arguments: dict[str, Any] | None = None) -> Any:
    """What QEMU returns for the command; ControlError when it refuses, or does not answer in ten seconds."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(control))
            with connection.makefile("rw", encoding="utf-8") as stream:
                _next(stream.readline())  # the greeting
                answer: Any = None
                for each in ({"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments or {}}):
                    stream.write(json.dumps(each) + "\n")
                    stream.flush()
                    answer = _next(stream.readline())
                    while "event" in answer:
                        answer = _next(stream.readline())
    except OSError as error:
        raise ControlError(f"{control}: {name}: {error}") from error
    if "error" in answer:
        raise ControlError(f"{name}: {answer['error'].get('desc', answer)}")
    return answer.get("return")


def _next(line: str) -> dict[str, Any]:
    if not line:
        raise ControlError("QEMU closed its control socket")
    message: dict[str, Any] = json.loads(line)
    return message
