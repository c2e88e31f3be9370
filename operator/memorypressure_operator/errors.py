"""What can go wrong in the operator, as types: a caller decides by class, never by text."""

import msgspec

NOT_UNDERSTOOD = (msgspec.MsgspecError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What the making of a view may raise for an object of the API server that it does not understand."""


class OperatorError(Exception):
    """Base of every error that this package raises on purpose."""


class SettingsError(OperatorError):
    """A flag or environment variable is unknown or has a value that is refused; the message names it."""


class CredentialsError(OperatorError):
    """No usable kubeconfig or service account was found; the message names the file."""


class ApiUnreachable(OperatorError):  # noqa: N818  named for what the API server is
    """The request got no answer (refused, reset, TLS failure, timeout); whether it took effect is unknown."""


class LeaseLost(OperatorError):  # noqa: N818  named for what happened
    """The Lease's deadline has passed: the request was not sent, and this replica may write nothing any more."""


class ApiRefused(OperatorError):  # noqa: N818  same
    """The API server answered with a status of 300 or more."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        retry_after_seconds: float = 0.0,
        causes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{status} {reason or 'no reason'}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        self.causes = causes

    @property
    def not_found(self) -> bool:
        """404: the object is gone, or its kind is not served."""
        return self.status == 404

    @property
    def not_served(self) -> bool:
        """404 for the kind, not for an object of it: there is no such path. Only the server's words tell."""
        words = ("could not find the requested resource", "404 page not found")
        return self.not_found and any(each in self.message for each in words)

    @property
    def conflict(self) -> bool:
        """409: a stale resourceVersion, a wrong UID precondition, or a name that exists already."""
        return self.status == 409

    @property
    def malformed(self) -> bool:
        """400, 413, or 422 with causes: what was sent is not valid, and will not be if it is sent again."""
        return self.status in (400, 413) or (self.status == 422 and bool(self.causes))

    @property
    def test_failed(self) -> bool:
        """422 to a JSON patch because a test did not hold: the server drops the words of it.

        What is not valid has causes, one a field (NewGenericServerResponse and NewInvalid in apimachinery).
        """
        return self.status == 422 and not self.causes
