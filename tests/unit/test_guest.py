"""Guests: what QEMU is told, what is kept in the cache, what the shell makes of answers. No machine is started."""

import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memorypressure_tools import toolcache
from memorypressure_tools.guest import control, kernel, packages, store, tree
from memorypressure_tools.guest.machine import Disk, FloodCard, Forward, Machine, qemu_command
from memorypressure_tools.guest.shell import GuestError, GuestTimeoutError, Shell
from memorypressure_tools.lab import onerun

KERNEL = kernel.Kernel("6.1.0-1-cloud-amd64", Path("/k/vmlinuz"), Path("/k"))
MACHINE = Machine(
    name="node-1", kernel=KERNEL, initrd=Path("/i"), disks=[Disk(serial="root", file=Path("/r"), format="qcow2")]
)
LOG = Path("/log")


def after(command: list[str], option: str) -> list[str]:
    """The words that follow the option, each time that it comes."""
    return [value for word, value in itertools.pairwise(command) if word == option]


def test_a_plain_machine_has_its_memory_cpus_kernel_and_root_disk() -> None:
    command = qemu_command(MACHINE, LOG)
    assert after(command, "-m") == ["768M"]
    assert after(command, "-smp") == ["2"]
    assert after(command, "-kernel") == ["/k/vmlinuz"]
    assert after(command, "-drive") == ["if=none,id=root,file=/r,format=qcow2,cache=unsafe"]
    assert "virtio-blk-pci,drive=root,serial=root" in after(command, "-device")
    assert "psi=1" in after(command, "-append")[0].split()
    assert after(command, "-numa") == []
    assert after(command, "-netdev") == ["user,id=user,ipv6=off"]


def test_a_throttled_swap_disk_and_a_read_only_disk_say_so_to_qemu() -> None:
    disks = [
        *MACHINE.disks,
        Disk(serial="swap", file=Path("/s,1"), bytes_per_second=5_000_000),
        Disk(serial="data", file=Path("/d"), read_only=True),
    ]
    drives = after(qemu_command(replace(MACHINE, disks=disks), LOG), "-drive")
    assert drives[1] == "if=none,id=swap,file=/s,,1,format=raw,cache=unsafe,throttling.bps-total=5000000"
    assert drives[2].endswith("cache=unsafe,read-only=on")


def test_memory_and_cpus_are_divided_among_numa_nodes() -> None:
    command = qemu_command(replace(MACHINE, numa_nodes=2, cpus=3), LOG)
    assert after(command, "-object") == [
        "memory-backend-ram,id=memory0,size=384M",
        "memory-backend-ram,id=memory1,size=384M",
    ]
    assert after(command, "-numa") == ["node,nodeid=0,cpus=0-0,memdev=memory0", "node,nodeid=1,cpus=1-2,memdev=memory1"]


def test_forwards_and_the_flood_card_become_network_devices() -> None:
    local, remote = (f"{end}.host=127.0.0.1,{end}.port={port}" for end, port in (("local", 21000), ("remote", 21001)))
    forward = Forward(guest_port=10250, port=10250, address="127.1.2.3")
    command = qemu_command(replace(MACHINE, forwards=[forward], flood=FloodCard(port=21000, sender_port=21001)), LOG)
    assert after(command, "-netdev") == [
        "user,id=user,ipv6=off,hostfwd=tcp:127.1.2.3:10250-:10250",
        f"dgram,id=flood,local.type=inet,{local},remote.type=inet,{remote}",
    ]
    assert "virtio-net-pci,netdev=flood,mac=52:54:00:09:00:02,mrg_rxbuf=off,host_mtu=9000" in after(command, "-device")


@pytest.mark.parametrize(
    "change", [{"numa_nodes": 5}, {"numa_nodes": 0}, {"disks": []}, {"disks": [*MACHINE.disks, *MACHINE.disks]}]
)
def test_a_machine_that_cannot_be_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="node-1: "):
        replace(MACHINE, **change)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(toolcache, "cache_root", lambda: tmp_path)
    return tmp_path / "guest"


def test_an_entry_is_made_once_and_a_failed_build_leaves_nothing(cache: Path) -> None:
    calls: list[Path] = []

    def build(path: Path) -> None:
        calls.append(path)
        path.write_text("made")

    def fail(path: Path) -> None:
        path.mkdir()
        (path / "half").touch()
        raise RuntimeError("no space")

    first, again = (store.entry("disk", store.digest("a"), build) for _ in range(2))
    assert first == again
    assert (first.read_text(), len(calls)) == ("made", 1)
    with pytest.raises(RuntimeError, match="no space"):
        store.entry("disk", store.digest("b"), fail)
    assert sorted(path.name for path in cache.iterdir()) == [".disk.lock", first.name]


def test_of_a_name_the_newest_entries_are_kept_and_those_that_may_be_in_use(cache: Path) -> None:
    def make(name: str, number: int) -> Path:
        return store.entry(name, store.digest(str(number)), lambda path: path.write_text("x"))

    made = [make(name, number) for number in range(store.KEPT + 2) for name in ("disk", "disk-2")]
    assert all(path.exists() for path in made)
    for age, path in enumerate(reversed(made), 1):
        os.utime(path, (0, time.time() - store.IN_USE_SECONDS - 60 * age))
    make("disk", 99)
    assert [path.exists() for path in made if path.name.startswith("disk-2-")] == [True] * (store.KEPT + 2)
    assert sum(path.exists() for path in made if not path.name.startswith("disk-2-")) == store.KEPT - 1


def test_a_digest_depends_on_names_modes_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    seen = {store.digest(tmp_path)}
    (tmp_path / "a").write_text("2")
    seen.add(store.digest(tmp_path))
    (tmp_path / "a").chmod(0o700)
    seen.add(store.digest(tmp_path))
    (tmp_path / "a").rename(tmp_path / "b")
    seen.add(store.digest(tmp_path))
    (tmp_path / "c").symlink_to("b")
    seen.add(store.digest(tmp_path))
    assert len(seen) == 5
    assert store.digest("ab", "c") != store.digest("a", "bc")


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packages.FILES, "runc", "/nowhere/runc")  # type: ignore[call-overload]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/apt-get")
    with pytest.raises(toolcache.ToolMissingError, match=r"apt-get install --no-install-recommends runc"):
        packages.ensure(["runc"])


def test_the_lab_asks_for_all_packages_before_it_uses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [*packages.GUEST, *packages.ROOT_TREE]
    for name in wanted:
        monkeypatch.setitem(packages.FILES, name, f"/nowhere/{name}")  # type: ignore[call-overload]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda _name: "/usr/bin/apt-get")
    with pytest.raises(toolcache.ToolMissingError, match=f"apt-get install --no-install-recommends {' '.join(wanted)}"):
        onerun.parts("6.1")


def test_the_newest_kernel_is_by_number_and_not_by_letter() -> None:
    names = [f"linux-image-6.1.0-{number}-cloud-amd64" for number in (9, 56, 7)]
    assert kernel.newest(names) == "linux-image-6.1.0-56-cloud-amd64"
    assert kernel.newest([]) is None


def test_linked_libraries_are_absolute_paths_with_the_loader() -> None:
    libraries = tree.linked(Path("/usr/bin/env").resolve())
    assert any("libc.so" in library for library in libraries)
    assert any("ld-linux" in library for library in libraries)
    assert all(Path(library).exists() for library in libraries)


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str], bytes]], Shell]]:
    """A shell whose far end answers a script's text with the bytes that a function makes of it, then waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def start(answer: Callable[[str], bytes]) -> Shell:
            def loop() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(answer(connection.recv(1 << 16).decode()))
                    done.wait(5)

            threading.Thread(target=loop, daemon=True).start()
            return Shell(server.getsockname()[1], "secret")

        yield start
        done.set()


def mark(script: str) -> str:
    return script.rsplit("echo ", maxsplit=1)[-1].split(":$?", maxsplit=1)[0]


def test_a_script_s_output_ends_at_the_mark_though_the_connection_stays_open(
    serve: Callable[[Callable[[str], bytes]], Shell],
) -> None:
    scripts: list[str] = []

    def answer(script: str) -> bytes:
        scripts.append(script)
        return f"one\ntwo\n{mark(script)}:0\n".encode()

    assert serve(answer).run("seq 2", seconds=5) == "one\ntwo\n"
    assert scripts[0].startswith("secret\nsh -c 'seq 2' ")


def test_an_exit_code_is_an_error_that_shows_the_output(serve: Callable[[Callable[[str], bytes]], Shell]) -> None:
    shell = serve(lambda script: f"no such file\n{mark(script)}:1\n".encode())
    with pytest.raises(GuestError, match=r"code 1 in the guest from: cat x\nno such file"):
        shell.run("cat x", seconds=5)


def test_an_answer_without_the_mark_is_a_timeout(serve: Callable[[Callable[[str], bytes]], Shell]) -> None:
    with pytest.raises(GuestTimeoutError, match="half an answer"):
        serve(lambda _script: b"half an answer").run("true", seconds=0.3)


def test_a_link_of_a_tree_is_replaced_and_never_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "init").write_text("this machine's")
    root = tree.Tree(tmp_path / "root")
    root.link("sbin/init", str(outside / "init"))
    root.text("sbin/init", "the guest's")
    assert (tmp_path / "root/sbin/init").read_text() == "the guest's"
    assert (outside / "init").read_text() == "this machine's"
    root.link("lib", str(outside))
    with pytest.raises(ValueError, match=r"lib/x: .* is a link out of the tree"):
        root.text("lib/x", "never")


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Callable[[dict[str, object]], tuple[Path, list[dict[str, object]]]]]:
    """A control socket whose far end says an event between the answers, and the list of the commands that it heard."""
    path = tmp_path / "n.qmp"
    heard: list[dict[str, object]] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def start(answer: dict[str, object]) -> tuple[Path, list[dict[str, object]]]:
            def loop() -> None:
                connection, _ = server.accept()
                with connection, connection.makefile("rw") as stream:
                    for said in ({"QMP": {}}, {"return": {}}, answer):
                        event = {} if "QMP" in said else {"event": "RTC_CHANGE"}
                        stream.writelines(json.dumps(each) + "\n" for each in (event, said) if each)
                        stream.flush()
                        heard.append(json.loads(stream.readline() or "{}"))

            threading.Thread(target=loop, daemon=True).start()
            return path, heard

        yield start


def test_a_disk_s_limit_is_changed_over_the_control_socket(
    qemu: Callable[[dict[str, object]], tuple[Path, list[dict[str, object]]]],
) -> None:
    path, heard = qemu({"return": {}})
    control.set_disk_limit(path, "swap", 20_000_000)
    assert [each.get("execute") for each in heard][:2] == ["qmp_capabilities", "block_set_io_throttle"]
    assert heard[1]["arguments"] == {
        "device": "swap", "bps": 20_000_000, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0
    }  # fmt: skip


def test_what_qemu_refuses_is_an_error_with_its_words(
    qemu: Callable[[dict[str, object]], tuple[Path, list[dict[str, object]]]],
) -> None:
    path, _ = qemu({"error": {"class": "GenericError", "desc": "Device 'swap' not found"}})
    with pytest.raises(control.ControlError, match="Device 'swap' not found"):
        control.set_disk_limit(path, "swap", 1)


def test_a_machine_that_is_gone_is_an_error_that_names_its_socket(tmp_path: Path) -> None:
    with pytest.raises(control.ControlError, match=r"gone\.qmp: block_set_io_throttle"):
        control.set_disk_limit(tmp_path / "gone.qmp", "swap", 1)
