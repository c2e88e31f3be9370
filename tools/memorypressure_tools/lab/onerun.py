"""One run: a machine, the flood from outside, and the guest's files in a directory."""

import json
import shutil
import socket
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from memorypressure_agent.host.journal_format import JournalError
from memorypressure_agent.host.journal_reader import JournalReader
from memorypressure_tools.guest import images, packages, programs
from memorypressure_tools.guest import kernel as kernels
from memorypressure_tools.guest.kernel import Kernel
from memorypressure_tools.guest.machine import Disk, FloodCard, Machine
from memorypressure_tools.guest.running import Running, free_port
from memorypressure_tools.guest.shell import GuestError
from memorypressure_tools.lab.arms import Arm, Killer
from memorypressure_tools.lab.orders import run_orders
from memorypressure_tools.lab.rootimage import agent_files, program_files, root_image
from memorypressure_tools.lab.scenarios import FIRST_PORT, Flood, Scenario, Swap
from memorypressure_tools.lab.script import DONE_MARK, FLOOD_MARK, guest_script
from memorypressure_tools.processes import Child

HERE: Final = Path(__file__).resolve().parent
BOOT_SECONDS: Final = 60.0
EVIDENCE_SECONDS: Final = 60.0
DATA_MIB: Final = 800
OUT_MIB: Final = 80
POLL_SECONDS: Final = 0.05
SINKS: Final = 16


@dataclass(frozen=True, slots=True)
class Parts:
    """What all runs of a series share."""

    kernel: Kernel
    initrd: Path
    root: Path
    data: Path
    floods: Mapping[Flood, bytes]
    agent: Mapping[str, bytes]
    programs: Mapping[str, bytes]


def parts(kernel_series: str) -> Parts:
    """Everything a run needs, made or from the cache; installs the Debian packages of all of it first."""
    packages.ensure([*packages.GUEST, *packages.ROOT_TREE])
    kernel, compiled = kernels.ensure(kernel_series), programs.ensure()
    return Parts(
        kernel=kernel,
        initrd=images.initrd(kernel),
        root=root_image(kernel),
        data=images.data_disk(DATA_MIB),
        floods={Flood.UDP: compiled["flood"].read_bytes(), Flood.TCP: compiled["tcpflood"].read_bytes()},
        agent=agent_files(),
        programs=program_files(),
    )


def run(scenario: Scenario, arm: Arm, made: Parts, directory: Path) -> None:
    """Runs it once and leaves the guest's files, its console and `flood.txt` in the directory.

    GuestError when the machine ended early, or did not come to an end in time.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    scratch = directory / "machine"
    scratch.mkdir()
    card = FloodCard(port=free_port(socket.SOCK_DGRAM), sender_port=free_port(socket.SOCK_DGRAM))
    machine = _machine(scenario, made, scratch, card)
    try:
        with Running(machine, scratch, _files(scenario, arm, made)) as running:
            _follow(running, scenario, made, directory)
        with tarfile.open(scratch / "out") as archive:
            archive.extractall(directory, filter="data")
    except tarfile.TarError as error:
        raise GuestError(f"the guest wrote no results: {error}") from error
    finally:
        for log in scratch.glob("*.log"):
            shutil.copy(log, directory / log.name)
        shutil.rmtree(scratch)
    if arm.killer is Killer.OURS:
        (directory / "agent.json").write_text(json.dumps(journal_content(directory / "journal"), indent=1), "utf-8")


def journal_content(path: Path) -> dict[str, Any]:
    """Status, decisions and lease that the sentinel left in its journal; GuestError when it cannot be read."""
    with JournalReader(str(path)) as reader:
        try:
            reader.refresh()
            status = reader.status()
            lease = reader.lease()
            decisions = reader.decisions()
        except JournalError as error:
            raise GuestError(f"the agent's journal: {error}") from error
    return {
        "status": status.values if status is not None else None,
        "killsTotal": lease.kills_total,
        "records": [record for _, record in decisions.records],
        "lost": decisions.lost,
    }


def _follow(running: Running, scenario: Scenario, made: Parts, directory: Path) -> None:
    """Waits for the guest's words on its console, floods when it says so, returns when it is done."""
    flood: Child | None = None
    deadline = time.monotonic() + BOOT_SECONDS + scenario.sampled_seconds + EVIDENCE_SECONDS
    try:
        while running.alive():
            said = running.serial()
            if DONE_MARK in said:
                break
            if flood is None and FLOOD_MARK in said and scenario.flood is not Flood.NONE:
                flood = _start_flood(running, scenario, made, directory)
            if time.monotonic() > deadline:
                raise GuestError(f"not done after its time; console:\n{said[-1500:]}")
            time.sleep(POLL_SECONDS)
        if DONE_MARK not in running.serial():
            running.check()
            raise GuestError(f"the machine ended early; console:\n{running.serial()[-1500:]}")
    finally:
        if flood is not None:
            flood.stop()


def _start_flood(running: Running, scenario: Scenario, made: Parts, directory: Path) -> Child:
    card = running.machine.flood
    if card is None:
        raise ValueError(f"{scenario.name}: a flood needs its card")
    words = [card.port, card.sender_port, SINKS, FIRST_PORT, scenario.payload_bytes, scenario.frames_per_second]
    program = running.directory / "flood"
    program.write_bytes(made.floods[scenario.flood])
    program.chmod(0o755)
    command = [str(program), *map(str, [*words, scenario.flood_seconds])]
    return Child("flood", command, directory / "flood.txt", directory)


def _machine(scenario: Scenario, made: Parts, scratch: Path, card: FloodCard) -> Machine:
    root, out = scratch / "root", scratch / "out"
    images.overlay(made.root, root)
    images.empty(out, OUT_MIB)
    disks = [
        Disk(serial="root", file=root, format="qcow2"),
        Disk(serial="data", file=made.data, read_only=True),
        Disk(serial="out", file=out),
    ]
    if scenario.swap is Swap.DISK:
        swap = scratch / "swap"
        images.empty(swap, scenario.swap_mib)
        disks.append(Disk(serial="swap", file=swap, bytes_per_second=scenario.swap_bytes_per_second))
    return Machine(
        name="guest",
        kernel=made.kernel,
        initrd=made.initrd,
        disks=disks,
        memory_mib=scenario.memory_mib,
        numa_nodes=scenario.numa_nodes,
        low_memory_mib=scenario.low_memory_mib,
        append=scenario.kernel_options.split(),
        flood=card,
    )


def _files(scenario: Scenario, arm: Arm, made: Parts) -> dict[str, str | bytes | Path]:
    files: dict[str, str | bytes | Path] = {
        "boot.sh": guest_script(scenario, arm),
        "lab/guest.sh": HERE / "guest.sh",
        **made.programs,
    }
    if arm.killer is Killer.OURS:
        files |= {"lab/granter.py": HERE / "granter.py", "lab/orders.json": run_orders(scenario, arm), **made.agent}
    if arm.killer is Killer.OOMD:
        files["lab/oomd.json"] = arm.rules
    if arm.killer is Killer.SYSTEMD_OOMD:
        files["init.sh"] = HERE / "systemd.sh"
    return files
