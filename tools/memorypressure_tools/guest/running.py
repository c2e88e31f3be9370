"""A virtual machine that runs: started, watched, ended by its pid; it ends with this process, however that ends."""

import contextlib
import dataclasses
import random
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from memorypressure_tools.guest import control, images
from memorypressure_tools.guest.machine import LOOPBACK, Disk, Forward, Machine, control_name, qemu_command
from memorypressure_tools.guest.shell import PORT as SHELL_PORT
from memorypressure_tools.guest.shell import GuestError, GuestTimeoutError, Shell
from memorypressure_tools.processes import Child, ChildDiedError

BOOT_SECONDS: Final = 120.0
PORT_ATTEMPTS: Final = 5
PORTS: Final = range(20000, 32000)


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, address: str = LOOPBACK) -> int:
    """A port of loopback that nothing is bound to at this moment; below the range of outgoing connections."""
    while True:
        port = random.choice(PORTS)  # noqa: S311 -- no secret
        with socket.socket(type=kind) as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            return port


class Running:
    """One started machine; a `with` block, or `stop`. `shell` is a root shell in it, once `wait` has returned.

    `files` are put on a disk that init unpacks to /config before anything else; of these `boot.sh` is run, if there is
    one, and `env` is read by the shell before it. The directory, which has to exist, takes the disk and the logs.
    """

    def __init__(
        self, machine: Machine, directory: Path, files: Mapping[str, str | bytes | Path] | None = None
    ) -> None:
        self.directory = directory
        self.serial_log = directory / f"{machine.name}.serial.log"
        token = secrets.token_hex(16)
        config = directory / f"{machine.name}.config"
        images.tar({**(files or {}), "token": token}, config)
        for attempt in range(PORT_ATTEMPTS):
            port = free_port()
            self.shell = Shell(port, token)
            forward = Forward(guest_port=SHELL_PORT, port=port)
            disk = Disk(serial="config", file=config, read_only=True)
            self.machine = dataclasses.replace(
                machine, disks=[*machine.disks, disk], forwards=[*machine.forwards, forward]
            )
            self.started = time.monotonic()
            log = directory / f"{machine.name}.qemu.log"
            self.child = Child(machine.name, qemu_command(self.machine, self.serial_log), log, directory)
            if (
                self._began()
                or attempt == PORT_ATTEMPTS - 1
                or "Could not set up host forwarding" not in self.child.tail()
            ):
                break
            log.unlink()

    def _began(self) -> bool:
        """False when QEMU refused its command at once."""
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            if not self.child.alive():
                return False
            time.sleep(0.05)
        return True

    @property
    def pid(self) -> int:
        """QEMU's process id, which is its process group and session, too."""
        return self.child.pid

    def serial(self) -> str:
        """What the guest has written to its console so far."""
        return self.serial_log.read_text(encoding="utf-8", errors="replace") if self.serial_log.exists() else ""

    def wait(self, seconds: float = BOOT_SECONDS) -> Self:
        """Returns when the shell answers; GuestError with the end of the console when it does not, or QEMU ended."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            try:
                self.shell.wait(2.0)
                return self
            except GuestTimeoutError:
                if time.monotonic() > end:
                    raise GuestError(
                        f"{self.machine.name}: no shell after {seconds:.0f} s; console:\n{self.serial()[-2000:]}"
                    ) from None

    def check(self) -> None:
        """GuestError with the ends of QEMU's log and of the console when the machine is gone."""
        try:
            self.child.check()
        except ChildDiedError as error:
            raise GuestError(f"{error}\nconsole:\n{self.serial()[-2000:]}") from error

    def alive(self) -> bool:
        """True while QEMU runs."""
        return self.child.alive()

    def set_disk_limit(self, serial: str, bytes_per_second: int) -> None:
        """Changes the limit of a disk's reads and writes together; 0: none. ControlError when QEMU refuses."""
        control.set_disk_limit(self.directory / control_name(self.machine), serial, bytes_per_second)

    def stop(self) -> None:
        """Ends the machine as pulling its plug does; returns when QEMU is gone."""
        self.child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
