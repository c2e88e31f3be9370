"""This host's own files, copied, of which only the free pages change: what a peer beside the sentinel watches, too."""

import re
from pathlib import Path

from support.shapenode import put

PROC = ("zoneinfo", "meminfo", "vmstat", "pressure/memory")
NODES = Path("/sys/devices/system/node")
_ZONE = re.compile(
    rb"^Node (?P<node>\d+), zone +\w+\n(?:(?!Node )[^\n]*\n)*?  pages free     (?P<free>\d+)\n"
    rb"(?:(?!Node )[^\n]*\n)*?        managed  (?P<managed>\d+)$",
    re.MULTILINE,
)


class HostNode:
    """`proc` and `sys` with the text that this host's kernel printed; `with_free` changes what they say."""

    def __init__(self, directory: Path) -> None:
        self.proc, self.sys = directory / "proc", directory / "sys"
        (self.proc / "pressure").mkdir(parents=True)
        for name in PROC:
            if Path("/proc", name).exists():
                (self.proc / name).write_bytes(Path("/proc", name).read_bytes())
        self._zoneinfo = (self.proc / "zoneinfo").read_bytes()
        self._vmstat: dict[bytes, tuple[Path, bytes]] = {}
        for source in NODES.glob("node[0-9]*/vmstat"):
            copy = self.sys / source.relative_to("/sys")
            copy.parent.mkdir(parents=True)
            copy.write_bytes(source.read_bytes())
            self._vmstat[source.parent.name.removeprefix("node").encode()] = copy, copy.read_bytes()
        self.show(self._zoneinfo)

    def with_free(self, free_pages: int) -> None:
        """Shows that many free pages in each NUMA node, each zone with its share by size."""
        zones = list(_ZONE.finditer(self._zoneinfo))
        managed: dict[bytes, int] = {}
        for zone in zones:
            managed[zone["node"]] = managed.get(zone["node"], 0) + int(zone["managed"])
        text, end = b"", 0
        for zone in zones:
            free = free_pages * int(zone["managed"]) // (managed[zone["node"]] or 1)
            text += self._zoneinfo[end : zone.start("free")] + b"%d" % free
            end = zone.end("free")
        self.show(text + self._zoneinfo[end:])

    def show(self, zoneinfo: bytes) -> None:
        """Writes the files; each node's vmstat begins with the sum of what its zones have free."""
        put(self.proc / "zoneinfo", zoneinfo)
        for number, (path, text) in self._vmstat.items():
            free = sum(int(zone["free"]) for zone in _ZONE.finditer(zoneinfo) if zone["node"] == number)
            put(path, re.sub(rb"\Anr_free_pages \d+", b"nr_free_pages %d" % free, text))
