"""The errors that end a subcommand with a sentence instead of a traceback, and the exit codes of all subcommands."""

EXIT_OK = 0
EXIT_FAILED = 1
"""The command ran and failed at run time."""
EXIT_BAD_INPUT = 2
"""Arguments, a policy, a recording or a source cannot be used as they are; nothing was done."""
EXIT_MISSING = 3
"""Something that the command needs is not there (an optional package, a kernel feature)."""


class AgentError(Exception):
    """Ends a subcommand with `str(self)` on standard error and `exit_code`."""

    exit_code = EXIT_FAILED


class BadInputError(AgentError):
    """Input that cannot be used; the message names file, line or field, and says what to write instead."""

    exit_code = EXIT_BAD_INPUT


class MissingError(AgentError):
    """Something needed is not there; the message says how to get it."""

    exit_code = EXIT_MISSING
