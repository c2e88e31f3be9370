"""The files of a machine from `shapes`: zoneinfo and node vmstat that change under a reader."""

import os
from dataclasses import replace
from pathlib import Path

from support import shapes

MEMINFO = "MemTotal: 270000000 kB\nMemAvailable: 135000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\nHugetlb: 0 kB\n"
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


class ShapeNode:
    """`proc` and `sys` of a machine; `with_free` changes what they say."""

    def __init__(self, directory: Path, machine: shapes.Machine) -> None:
        self.proc, self.sys = directory / "proc", directory / "sys"
        self._machine = machine
        (self.proc / "pressure").mkdir(parents=True)
        (self.proc / "meminfo").write_text(MEMINFO)
        (self.proc / "pressure/memory").write_text(PRESSURE)
        for node in machine.nodes:
            (self.sys / f"devices/system/node/node{node}").mkdir(parents=True)
        self.show(machine)

    def show(self, machine: shapes.Machine) -> None:
        """Writes the files for this state of the machine."""
        put(self.proc / "zoneinfo", shapes.zoneinfo(machine))
        for node in machine.nodes:
            put(self.sys / f"devices/system/node/node{node}/vmstat", shapes.node_vmstat(machine, node))

    def with_free(self, free_pages: int) -> None:
        """Shows the machine with that many free pages in each zone Normal, and none in the others."""
        nodes = {
            node: tuple(replace(zone, free_pages=free_pages if zone.name == "Normal" else 0) for zone in zones)
            for node, zones in self._machine.nodes.items()
        }
        self.show(replace(self._machine, nodes=nodes))


def put(path: Path, text: bytes) -> None:
    """Replaces a file's content in place: readers keep it open. One that reads in between sees an unknown sample."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.pwrite(descriptor, text, 0)
    os.ftruncate(descriptor, len(text))
    os.close(descriptor)
