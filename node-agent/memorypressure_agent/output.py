"""Errors of writing what a subcommand prints or records, told as such."""

from collections.abc import Iterator
from contextlib import contextmanager

from memorypressure_agent.errors import AgentError

STANDARD_OUTPUT = "standard output"


@contextmanager
def writing_to(target: str) -> Iterator[None]:
    """AgentError that names the target for an OSError of the body, which only writes; BrokenPipeError goes through.

    A reader that has seen enough (head, less) is no error: `cli` ends quietly then.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AgentError(f"cannot write {target}: {error.strerror or error}") from error
