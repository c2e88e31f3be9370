"""The reporter's options: the API server that is given or the pod's, what cannot be used named with what to do."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from memorypressure_agent.cli import main
from memorypressure_agent.reporter.client import Endpoint, SettingsError

IN_A_POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}


@pytest.mark.parametrize(
    ("server", "environ", "wanted"),
    [
        (None, IN_A_POD, "https://10.96.0.1:6443"),
        (None, {"KUBERNETES_SERVICE_HOST": "fd00::1"}, "https://[fd00::1]:443"),
        ("https://api.example:6443/", {}, "https://api.example:6443"),
        ("https://api.example", IN_A_POD, "https://api.example"),
    ],
)
def test_the_endpoint_is_the_one_given_or_that_of_the_pod(
    tmp_path: Path, server: str | None, environ: dict[str, str], wanted: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    assert Endpoint.find(server, str(file), str(file), environ).server == wanted


@pytest.mark.parametrize(
    ("server", "token", "wanted"),
    [
        (None, "file", "no API server: give --server URL, or run in a pod"),
        ("http://api.example", "file", "--server http://api.example: give a URL such as https://.*never sent in clear"),
        ("api.example:6443", "file", "--server api.example:6443: give a URL"),
        ("https://", "file", "--server https://: give a URL"),
        ("https://api.example:port", "file", "--server https://api.example:port: give a URL"),
        ("https://api.example/base", "file", "--server https://api.example/base: give a URL"),
        ("https://user:word@api.example", "file", "--server .*: give a URL"),
        ("https://api.example", "missing", "--token-file .*missing: No such file or directory; give a readable file"),
        ("https://api.example", ".", "--token-file .*: Is a directory; give a readable file"),
    ],
)
def test_settings_that_cannot_be_used_name_the_option(
    tmp_path: Path, server: str | None, token: str, wanted: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=wanted):
        Endpoint.find(server, str(tmp_path / token), str(tmp_path / "file"), {})


SCRIPT = Path(sys.executable).with_name("memorypressure-agent")


def options(directory: Path, **changes: str) -> list[str]:
    """Options that can be used, but for the changes."""
    (directory / "file").write_text("x")
    usable = {
        "--node-name": "n",
        "--orders": str(directory / "orders.json"),
        "--journal": str(directory / "journal"),
        "--server": "https://127.0.0.1:1",
        "--token-file": str(directory / "file"),
        "--ca-file": str(directory / "file"),
        "--metrics-port": "0",
        "--metrics-address": "127.0.0.1",
    }
    return [f"{name}={value}" for name, value in (usable | changes).items()]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"--node-name": ""}, "--node-name is missing: give the name of this Node, or set NODE_NAME"),
        ({"--node-name": "Node A"}, "--node-name 'Node A': not a Node's name"),
        ({"--node-name": "../../pods"}, "--node-name '../../pods': not a Node's name"),
        ({"--own-pod-uid": "../x"}, "--own-pod-uid '../x': not a pod's UID"),
        ({"--orders": "/nowhere/orders.json"}, "--orders /nowhere/orders.json: there is no directory /nowhere"),
        ({"--orders": "."}, "is a directory; name a file in it"),
        ({"--journal": "/nowhere/journal"}, "--journal /nowhere/journal: there is no directory /nowhere"),
        ({"--orders": ""}, "--orders: is empty; name a file"),
        ({"--orders": "pipe"}, "--orders pipe: is a device, pipe or socket, and a file would be put in its place"),
        ({"--orders": "link"}, "--orders link: is a link, and a file would be put in its place"),
        ({"--orders": "same", "--journal": "./same"}, "--orders same: is the sentinel's journal too"),
        ({"--kernel-log": "."}, "--kernel-log .: is a directory; name a file in it"),
        ({"--orders": "/proc/orders.json"}, "--orders /proc/orders.json: nothing can be written beside it"),
        ({"--server": "http://h"}, "--server http://h: give a URL such as https://"),
        ({"--token-file": "/nowhere/token"}, "--token-file /nowhere/token: No such file or directory"),
        ({"--ca-file": "/nowhere/ca"}, "--ca-file /nowhere/ca: No such file or directory"),
        (
            {"--metrics-port": "65536"},
            "argument --metrics-port: '65536' is no port: give a whole number from 0 to 65535",
        ),
        ({"--metrics-port": "9464.5"}, "argument --metrics-port: '9464.5' is no port"),
        ({"--metrics-port": "-1"}, "argument --metrics-port"),
        ({"--log-format": "xml"}, "argument --log-format: invalid choice: 'xml'"),
        ({"--unknown": "x"}, "unrecognized arguments: --unknown=x"),
    ],
)
def test_bad_options_end_the_reporter_with_2_and_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, str],
    wanted: str,
) -> None:
    for name in ("NODE_NAME", "POD_UID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("link").symlink_to("elsewhere")
    try:
        code = main(["reporter", *options(tmp_path, **changes)])
    except SystemExit as end:
        code = int(end.code or 0)
    out, complaint = capsys.readouterr()
    assert (code, out) == (2, "")
    assert wanted in complaint
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "pipe"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"--metrics-port": "TAKEN"}, ": Address already in use; choose another one"),
        ({"--metrics-address": "192.0.2.1"}, "--metrics-address 192.0.2.1: Cannot assign requested address"),
        ({"--node-name": "Node A"}, "--node-name 'Node A': not a Node's name"),
    ],
)
def test_the_command_too_ends_with_2_and_one_line(tmp_path: Path, changes: dict[str, str], wanted: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        words = [word.replace("TAKEN", str(taken.getsockname()[1])) for word in options(tmp_path, **changes)]
        done = subprocess.run([SCRIPT, "reporter", *words], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert wanted in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_reporter_imports_no_kopf_no_kubernetes_and_no_aiohttp() -> None:
    program = (
        "import sys, memorypressure_agent.reporter.main\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}"
        " & {'kopf', 'kubernetes', 'aiohttp', 'msgspec', 'yaml', 'asyncio', 'memorypressure_operator', 'requests'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "[]\n"
