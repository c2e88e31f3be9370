"""Command line of `memorypressure-operator`; nothing heavy is imported before the settings are known to be good."""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from memorypressure.version import VERSION
from memorypressure_operator import settings as settings_module
from memorypressure_operator.errors import CredentialsError, SettingsError

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2

MOST_WAIT_SECONDS = 86_400

_EPILOG = """every option from --kubeconfig on is also an environment variable: --lease-seconds is MPO_LEASE_SECONDS
(the flag wins).

examples:
  memorypressure-operator explain worker-7 --namespace memory-pressure
  memorypressure-operator check --namespace memory-pressure --wait-seconds 60

exit codes:
  0  run: ended by SIGTERM or SIGINT; check: all is well; explain, cleanup: done
  1  run: a part of it failed; check: something is not well; explain: no such node; any: the API server refuses, or
     does not answer
  2  an option, a variable or the kubeconfig cannot be used; nothing was done"""


def parser() -> argparse.ArgumentParser:
    """The parser of all options; values stay strings, `settings.parse` judges them."""
    result = argparse.ArgumentParser(
        prog="memorypressure-operator",
        usage="%(prog)s [run | explain NODE | check | cleanup] [options]",
        description="Plans, grants, taints, evicts and explains for every node's memory-pressure policy.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--version", action="version", version=f"memorypressure-operator {VERSION}")
    result.add_argument(
        "command",
        nargs="?",
        choices=("run", "explain", "check", "cleanup"),
        default="run",
        help="run: the operator (default). explain NODE: which policy is in force there, and of every pod whether it "
        "may be stopped and why. check: whether every node has an agent that reports, every policy is carried out and "
        "the operator leads; exit code 1 if not. cleanup: takes the Lease from a running operator and our taints off "
        "all nodes, for an uninstall.",
    )
    result.add_argument("node", nargs="?", help="explain: name of the node")
    result.add_argument("--output", choices=("text", "json"), default="text", help="explain: what is printed [text]")
    result.add_argument(
        "--metrics-url",
        metavar="URL",
        type=_url,
        default="",
        help="check: the operator's metrics, which say whether it leads [not asked for]",
    )
    result.add_argument(
        "--wait-seconds",
        metavar="N",
        type=_wait_seconds,
        default=0.0,
        help="check: for how long all may still become well [0]",
    )
    for name, text, default in settings_module.describe():
        flag = "--" + name.replace("_", "-")
        if isinstance(default, bool):
            result.add_argument(flag, dest=name, action="store_const", const=True, default=None, help=text)
        else:
            shown = f" [{default}]" if default != "" else ""
            result.add_argument(flag, dest=name, metavar="VALUE", default=None, help=(text + shown).replace("%", "%%"))
    return result


def _url(text: str) -> str:
    if text and not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no URL such as http://127.0.0.1:9465/metrics")
    return text


def _wait_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MOST_WAIT_SECONDS:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a number from 0 to {MOST_WAIT_SECONDS}")
    return seconds


def main(argv: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    arguments = vars(parser().parse_args(argv))
    command, node, output = (arguments.pop(name) for name in ("command", "node", "output"))
    metrics_url, wait_seconds = (arguments.pop(name) for name in ("metrics_url", "wait_seconds"))
    try:
        if (command == "explain") != bool(node):
            what = f"{command} takes no {node!r}" if node else "explain: name the node, as in: explain worker-7"
            raise SettingsError(what)
        settings = settings_module.parse(arguments, os.environ if environment is None else environment)
        operator = importlib.import_module("memorypressure_operator.main")  # kopf and kubernetes: not for --help
        code: int
        if command == "explain":
            code = operator.explain_node(settings, node, output)
        elif command == "check":
            code = operator.check_all(settings, metrics_url, wait_seconds)
        else:
            code = operator.clean_up(settings) if command == "cleanup" else operator.run(settings)
        sys.stdout.flush()
    except (SettingsError, CredentialsError) as error:
        print(f"memorypressure-operator: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
