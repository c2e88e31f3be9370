"""Texts as kernels print them: /proc/zoneinfo of 4.4 to 6.18 for machines that are not at hand, and nodeN/vmstat.

Written after mm/vmstat.c, independent of the parser: a shape says what a machine is, `zoneinfo` prints it line by line.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

X86_64 = ("DMA", "DMA32", "Normal", "Movable", "Device")
ARM64 = ("DMA", "DMA32", "Normal", "Movable", "Device")
NO_DMA = ("Normal", "Movable")
DMA32_ONLY = ("DMA32", "Normal", "Movable")
X86_32 = ("DMA", "Normal", "HighMem", "Movable")
ALL_TYPES = ("DMA", "DMA32", "Normal", "HighMem", "Movable", "Device")
PROTECTION_RATIO = {"DMA": 256, "DMA32": 256, "Normal": 32, "HighMem": 0, "Movable": 0, "Device": 0}
GIB_PAGES = 1 << 18
MIB_PAGES = 1 << 8


@dataclass(frozen=True)
class ZoneShape:
    """One zone; `min_pages` is without boost, low and high follow from it and the size as in the kernel."""

    name: str
    managed_pages: int
    free_pages: int
    min_pages: int
    boost_pages: int = 0
    cma_pages: int = 0
    free_cma_pages: int = 0
    threshold_pages: int = 24

    @property
    def step_pages(self) -> int:
        """The distance from min to low and from low to high, with the default watermark_scale_factor."""
        return max(self.min_pages // 4, self.managed_pages // 1000)


@dataclass(frozen=True)
class Machine:
    """A machine: per NUMA node its populated zones, its CPUs and its kernel's configuration."""

    kernel: tuple[int, int]
    nodes: dict[int, tuple[ZoneShape, ...]]
    types: tuple[str, ...] = X86_64
    cpus: int = 2
    numa: bool = True
    smp: bool = True
    page_size_bytes: int = 4096
    protection: dict[tuple[int, str], tuple[int, ...]] = field(default_factory=dict)

    def protection_of(self, node: int, name: str) -> tuple[int, ...]:
        """lowmem_reserve of a zone, as `setup_per_zone_lowmem_reserve` makes it, or as the shape says."""
        if (node, name) in self.protection:
            return self.protection[node, name]
        sizes = {zone.name: zone.managed_pages for zone in self.nodes[node]}
        own, ratio = self.types.index(name), PROTECTION_RATIO[name]
        entries = []
        above = 0
        for index, other in enumerate(self.types):
            above += sizes.get(other, 0) if index > own else 0
            entries.append(above // ratio if ratio and sizes.get(name) and index > own else 0)
        return tuple(entries)

    def on(self, kernel: tuple[int, int]) -> "Machine":
        """The same machine under another kernel."""
        return replace(self, kernel=kernel)


def zoneinfo(machine: Machine) -> bytes:
    """The machine's /proc/zoneinfo."""
    return "".join(line + "\n" for node in machine.nodes for line in _node(machine, node)).encode()


def node_vmstat(machine: Machine, node: int) -> bytes:
    """The node's /sys/devices/system/node/nodeN/vmstat."""
    free = sum(zone.free_pages for zone in machine.nodes[node])
    names = [name for name in _zone_counters(machine.kernel, machine.numa) if name != "nr_free_pages"]
    names += _node_counters(machine.kernel) if machine.kernel >= (4, 8) else []
    return "".join([f"nr_free_pages {free}\n", *(f"{name} {len(name)}\n" for name in names)]).encode()


def _node(machine: Machine, node: int) -> Iterator[str]:
    populated = {zone.name: zone for zone in machine.nodes[node]}
    stats_printed = machine.kernel < (4, 8)
    for name in machine.types:
        zone = populated.get(name)
        if zone is None:
            if machine.kernel >= (4, 12):
                yield from _empty(machine, node, name)
            continue
        yield f"Node {node}, zone {name:>8}"
        if not stats_printed:
            stats_printed = True
            yield "  per-node stats"
            yield from (f"      {counter:<12} {len(counter) * 7}" for counter in _node_counters(machine.kernel))
        yield from _head(machine, zone)
        if machine.kernel >= (4, 12):
            yield _protection(machine, node, name)
        values = {"nr_free_pages": zone.free_pages, "nr_free_cma": zone.free_cma_pages}
        for counter in _zone_counters(machine.kernel, machine.numa):
            yield f"      {counter:<12} {values.get(counter, len(counter) * 3)}"
        if machine.kernel < (4, 12):
            yield _protection(machine, node, name)
        yield from _tail(machine, zone)


def _head(machine: Machine, zone: ZoneShape) -> Iterator[str]:
    boost = zone.boost_pages if machine.kernel >= (5, 0) else 0
    minimum = zone.min_pages + boost
    step = zone.step_pages
    yield f"  pages free     {zone.free_pages}"
    if machine.kernel >= (5, 16):
        yield f"        boost    {boost}"
    yield f"        min      {minimum}"
    yield f"        low      {minimum + step}"
    yield f"        high     {minimum + 2 * step}"
    if machine.kernel >= (6, 12):
        yield f"        promo    {minimum + 3 * step}"
    if machine.kernel < (4, 8):
        yield "        scanned  0"
    elif machine.kernel < (4, 10):
        yield "   node_scanned  0"
    yield f"        spanned  {zone.managed_pages + 4096}"
    yield f"        present  {zone.managed_pages + 100 if zone.managed_pages else 0}"
    yield f"        managed  {zone.managed_pages}"
    if machine.kernel >= (5, 12):
        yield f"        cma      {zone.cma_pages}"


def _empty(machine: Machine, node: int, name: str) -> Iterator[str]:
    """An empty zone; Movable's min of 32 is what a 6.18 kernel showed."""
    minimum = 32 if name == "Movable" and machine.kernel >= (6, 12) else 0
    yield f"Node {node}, zone {name:>8}"
    for line in _head(machine, ZoneShape(name, 0, 0, minimum)):
        if line.startswith("        spanned"):
            yield "        spanned  0"
        elif minimum and line.split()[0] in ("low", "high", "promo"):
            yield f"        {line.split()[0]:<8} {minimum}"
        else:
            yield line
    yield _protection(machine, node, name)


def _protection(machine: Machine, node: int, name: str) -> str:
    return f"        protection: ({', '.join(map(str, machine.protection_of(node, name)))})"


def _tail(machine: Machine, zone: ZoneShape) -> Iterator[str]:
    yield "  pagesets"
    wide = machine.kernel >= (6, 7)
    for cpu in range(machine.cpus):
        yield f"    cpu: {cpu}"
        yield f"              count: {'   ' if wide else ''}{cpu * 37 % 3000}"
        yield f"              high:  {'   ' if wide else ''}{3678}"
        yield f"              batch: {'   ' if wide else ''}{63}"
        if wide:
            yield "              high_min: 3678"
            yield "              high_max: 48307"
        if machine.smp:
            yield f"  vm stats threshold: {zone.threshold_pages}"
    if machine.kernel < (4, 8):
        yield "  all_unreclaimable: 0"
        yield "  start_pfn:         4096"
        yield "  inactive_ratio:    5"
        return
    yield "  node_unreclaimable:  0"
    yield "  start_pfn:           4096"
    if machine.kernel < (4, 16):
        yield "  node_inactive_ratio: 5"


def _zone_counters(kernel: tuple[int, int], numa: bool) -> list[str]:
    names = ["nr_free_pages"]
    if kernel >= (6, 16):
        names.append("nr_free_pages_blocks")
    if kernel >= (6, 13):
        names.append("nr_free_highatomic")
    if kernel < (4, 8):
        names += ["nr_alloc_batch", "nr_inactive_anon", "nr_active_anon", "nr_inactive_file", "nr_active_file"]
    else:
        names += ["nr_zone_inactive_anon", "nr_zone_active_anon", "nr_zone_inactive_file", "nr_zone_active_file"]
        names += ["nr_zone_unevictable", "nr_zone_write_pending"]
    names.append("nr_mlock")
    if kernel < (5, 11):
        names.append("nr_page_table_pages")
    if kernel < (5, 9):
        names.append("nr_kernel_stack")
    if kernel < (6, 15):
        names.append("nr_bounce")
    names.append("nr_zspages")
    if kernel < (4, 14):
        return names + (_numa_counters() if numa else []) + ["nr_free_cma"]
    return [*names, "nr_free_cma", *(_numa_counters() if numa else [])]


def _numa_counters() -> list[str]:
    return ["numa_hit", "numa_miss", "numa_foreign", "numa_interleave", "numa_local", "numa_other"]


def _node_counters(kernel: tuple[int, int]) -> list[str]:
    names = ["nr_inactive_anon", "nr_active_anon", "nr_inactive_file", "nr_active_file", "nr_unevictable"]
    names += ["nr_slab_reclaimable", "nr_slab_unreclaimable", "nr_isolated_anon", "nr_isolated_file"]
    if kernel >= (5, 9):
        names += ["workingset_nodes", "workingset_refault_anon", "workingset_refault_file"]
    else:
        names.append("workingset_refault")
    names += [
        "nr_anon_pages",
        "nr_mapped",
        "nr_file_pages",
        "nr_dirty",
        "nr_writeback",
        "nr_shmem",
        "nr_shmem_hugepages",
    ]
    names += ["nr_anon_transparent_hugepages", "nr_vmscan_write", "nr_dirtied", "nr_written"]
    if kernel >= (5, 9):
        names.append("nr_kernel_stack")
    if kernel >= (5, 11):
        names.append("nr_page_table_pages")
    if kernel >= (5, 18):
        names += ["pgpromote_success"]
    if kernel >= (6, 12):
        names += ["pgdemote_kswapd", "pgdemote_proactive", "nr_hugetlb"]
    return names


def normal(managed_pages: int, free_pages: int, min_pages: int, **others: int) -> ZoneShape:
    """A zone Normal."""
    return ZoneShape("Normal", managed_pages, free_pages, min_pages, **others)


def one_node(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """A virtual machine of 8 GiB: zones DMA, DMA32 and Normal."""
    zones = (
        ZoneShape("DMA", 3840, 3840, 28, threshold_pages=4),
        ZoneShape("DMA32", 772915, 772789, 5886),
        normal(1441792, 97027, 10980, threshold_pages=28),
    )
    return Machine(kernel, {0: zones})


def two_nodes(kernel: tuple[int, int] = (6, 18), cpus: int = 2) -> Machine:
    """A server of 2 x 128 GiB."""
    zones = (ZoneShape("DMA", 3840, 3840, 3), ZoneShape("DMA32", 480000, 400000, 500))
    first = (*zones, normal(32 * MIB_PAGES << 12, 3_000_000, 32_000, threshold_pages=125))
    second = (normal(33 * MIB_PAGES << 12, 2_000_000, 33_000, threshold_pages=125),)
    return Machine(kernel, {0: first, 1: second}, cpus=cpus)


def eight_nodes(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """Eight nodes with gaps in their numbers."""
    first = one_node(kernel).nodes[0]
    others = {number: (normal(1 << 21, 300_000 + number, 5000),) for number in (1, 2, 3, 8, 9, 10, 11)}
    return Machine(kernel, {0: first, **others})


def with_memoryless_nodes(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """Nodes 0 and 2 have no memory; before 4.12 they are not printed at all."""
    return Machine(kernel, {0: (), 1: one_node(kernel).nodes[0], 2: ()})


def terabyte(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """1 TiB on a node: DMA32's protection is larger than DMA32, so the zone is closed to every line."""
    zones = (
        ZoneShape("DMA", 3840, 3840, 0),
        ZoneShape("DMA32", 480_000, 480_000, 29),
        normal(1024 * GIB_PAGES, 20_000_000, 16_867, threshold_pages=125),
    )
    return Machine(kernel, {0: zones}, cpus=8)


def movable(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """A node with half of its memory in zone Movable."""
    zones = (*one_node(kernel).nodes[0], ZoneShape("Movable", 2_000_000, 900_000, 32))
    return Machine(kernel, {0: zones})


def cma(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """Most of what is free in DMA32 is CMA, which GFP_ATOMIC cannot use."""
    zone = ZoneShape(
        "DMA32", 500_000, 60_000, 4000, cma_pages=65_536 if kernel >= (5, 12) else 0, free_cma_pages=59_000
    )
    return Machine(kernel, {0: (zone,)}, types=DMA32_ONLY)


def arm64_64k(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """arm64 with 64 KiB pages: DMA is a gigabyte and counts."""
    zones = (ZoneShape("DMA", 16_384, 9_000, 400), normal(1 << 20, 50_000, 3_000))
    return Machine(kernel, {0: zones}, types=ARM64, page_size_bytes=65536, cpus=4)


def highmem(kernel: tuple[int, int] = (6, 1)) -> Machine:
    """A 32-bit machine: HighMem never counts, and class Normal is entry 1."""
    zones = (
        ZoneShape("DMA", 3_976, 3_000, 60),
        normal(180_000, 50_000, 2_800),
        ZoneShape("HighMem", 700_000, 200_000, 128),
    )
    return Machine(kernel, {0: zones}, types=X86_32, numa=False)


def device(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """A node whose Device zone has pages (persistent memory)."""
    return Machine(kernel, {0: one_node(kernel).nodes[0], 1: (normal(1 << 20, 70_000, 900), _pmem())})


def _pmem() -> ZoneShape:
    return ZoneShape("Device", 1 << 19, 0, 0)


def many_cpus(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """256 CPUs, two nodes, four zones with pages."""
    return two_nodes(kernel, cpus=256)


def no_numa(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """CONFIG_NUMA=n: no numa_* counters."""
    return replace(one_node(kernel), numa=False)


def uniprocessor(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """CONFIG_SMP=n: one CPU and no threshold, so the counters are exact."""
    return replace(one_node(kernel), cpus=1, smp=False)


def no_dma(kernel: tuple[int, int] = (6, 18)) -> Machine:
    """A configuration without DMA and DMA32: class Normal is entry 0."""
    return Machine(kernel, {0: (normal(1 << 20, 70_000, 900),)}, types=NO_DMA)


SHAPES = {
    "one node": one_node,
    "two nodes": two_nodes,
    "eight nodes": eight_nodes,
    "memory-less nodes": with_memoryless_nodes,
    "a terabyte": terabyte,
    "movable": movable,
    "cma": cma,
    "arm64 with 64 KiB pages": arm64_64k,
    "highmem": highmem,
    "device": device,
    "256 CPUs": many_cpus,
    "no NUMA": no_numa,
    "no SMP": uniprocessor,
    "no DMA zones": no_dma,
}
KERNELS = (
    (4, 4),
    (4, 8),
    (4, 9),
    (4, 12),
    (4, 14),
    (4, 15),
    (4, 19),
    (5, 0),
    (5, 4),
    (5, 10),
    (5, 12),
    (5, 15),
    (5, 16),
)
KERNELS += ((6, 1), (6, 6), (6, 7), (6, 12), (6, 13), (6, 18))
