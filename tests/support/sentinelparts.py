"""Names and a clock that the tests of the sentinel's parts share."""

UID = "8f1f6d1e-6ad0-4a7e-9f0e-2f8d6a3c1b11"
OTHER = "0c2b8d7e-1111-4a7e-9f0e-2f8d6a3c1b22"
SECOND = 1_000_000_000


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 10_000 * SECOND

    def __call__(self) -> int:
        return self.now
