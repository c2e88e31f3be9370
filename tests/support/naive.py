"""/proc/zoneinfo read line by line, as anyone would: the tests' second opinion and the benchmark's baseline."""

from dataclasses import dataclass, field

_HEAD_FIELDS = ("boost", "min", "low", "high", "promo", "present", "managed", "cma")


@dataclass
class NaiveZone:
    """What one block says, word by word."""

    node: int
    name: str
    numbers: dict[str, int] = field(default_factory=dict)
    protection: tuple[int, ...] = ()
    thresholds: list[int] = field(default_factory=list)


def read(text: bytes) -> list[NaiveZone]:
    """The blocks of a text that is taken to be well-formed."""
    zones: list[NaiveZone] = []
    head = False
    for line in text.decode().splitlines():
        words = line.split()
        head = head and not words[0].startswith("nr_")
        if words[0] == "Node":
            zones.append(NaiveZone(int(words[1].rstrip(",")), words[3]))
            head = False
        elif words[0] == "pages" and words[1] == "free":
            zones[-1].numbers["free"] = int(words[2])
            head = True  # until the counters, which may have any name, these too
        elif head and words[0] in _HEAD_FIELDS:
            zones[-1].numbers[words[0]] = int(words[1])
        elif words[0] == "nr_free_cma":
            zones[-1].numbers["nr_free_cma"] = int(words[1])
        elif words[0] == "protection:":
            head = False
            zones[-1].protection = tuple(int(word.strip("(),")) for word in words[1:])
        elif words[:2] == ["vm", "stats"]:
            zones[-1].thresholds.append(int(words[3]))
    return zones
