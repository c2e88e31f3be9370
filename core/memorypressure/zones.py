"""/proc/zoneinfo -> zones and NUMA nodes; what is not understood is an error with its line, never a number.

The text must follow the grammar of `zoneinfo_grammar` to the last byte, and its numbers must fit together: nodes and
zones in order, fields alike in all blocks, min with boost in it <= low <= high, protection as long as the kernel has
zone types and 0 up to the zone's own. A text cut off exactly between two nodes is a well-formed smaller machine; the
changed `signature` then restarts every window.
"""

import re
from itertools import combinations, pairwise
from typing import Any

from memorypressure.zone_uses import uses
from memorypressure.zone_values import (
    COUNTABLE_ZONES,
    MAX_PAGES,
    CountedZone,
    Line,
    Lines,
    NumaNode,
    Signature,
    Zone,
    ZoneInfo,
    signature,
)
from memorypressure.zoneinfo_blocks import Block, ZoneInfoError, block_at, blocks_of, error_at
from memorypressure.zoneinfo_grammar import ZONE_TYPES

__all__ = [
    "COUNTABLE_ZONES",
    "MAX_PAGES",
    "CountedZone",
    "Line",
    "Lines",
    "NumaNode",
    "Signature",
    "Zone",
    "ZoneInfo",
    "ZoneInfoError",
    "ZoneInfoReader",
    "parse_zoneinfo",
    "signature",
]

_CPU_AND_COUNT = re.compile(rb"(?:cpu|count): ++([0-9]+)")
_THRESHOLD = re.compile(rb"\n  vm stats threshold: ([0-9]+)\n")
_STAT_NAME = re.compile(rb"      ([a-z0-9_]+) ")
_DIGITS = b"0123456789"
_MOST_KNOWN = 64
"""Regions of counter names, of which a machine has two kinds (node and zone), remembered as free of duplicates; and
zones, each with its protections."""

MAX_THRESHOLD = 127
"""The kernel keeps the threshold in a signed byte (and caps it at 125)."""

Row = tuple[Any, ...]


def parse_zoneinfo(text: bytes, page_size_bytes: int) -> ZoneInfo:
    """The zones and nodes of one complete reading of /proc/zoneinfo; raises ZoneInfoError.

    The page size (bytes) only decides which zones are too small to count.
    """
    return ZoneInfoReader(page_size_bytes).parse(text)


class ZoneInfoReader:
    """`parse_zoneinfo` for many readings of one machine.

    It remembers what was found in order: lists of counter names without a name twice, and the sequence of zones with
    their fields and protections. Verdict and value never depend on what was parsed before.
    """

    def __init__(self, page_size_bytes: int) -> None:
        if page_size_bytes < 4096 or page_size_bytes & (page_size_bytes - 1):
            raise ValueError(f"page size {page_size_bytes}: expected a power of 2 of at least 4096 bytes")
        self._page_size_bytes = page_size_bytes
        self._unique_regions: set[bytes] = set()
        self._structure: list[Row] = []
        self._normal_index = 0
        self._known: dict[Row, tuple[int, str, tuple[int, ...]]] = {}
        self._empty: dict[int, tuple[bytes, Zone, Row]] = {}
        self._cpus_in_order: list[bytes] = []

    def parse(self, text: bytes) -> ZoneInfo:
        """The zones and nodes of one complete reading; raises ZoneInfoError."""
        zones: list[Zone] = []
        structure: list[Row] = []
        for place, found in enumerate(self._found(text)):
            zone, shape = found if isinstance(found, tuple) else self._zone(found, place)
            zones.append(zone)
            structure.append(shape)
        if structure != self._structure:
            blocks = blocks_of(text)
            _check_order(blocks)
            self._normal_index = _normal_index(blocks, zones)
            self._structure = structure
        if not [zone for zone in zones if zone.managed_pages and zone.name in COUNTABLE_ZONES]:
            raise error_at(text, len(text), "a zone DMA, DMA32 or Normal with managed pages")
        return ZoneInfo(tuple(zones), self._page_size_bytes, self._normal_index)

    def _found(self, text: bytes) -> list[Block | tuple[Zone, Row]]:
        """The blocks of a text; of zones without pages that stood in the same place before, what was made of them.

        Of the ten zones of two nodes six or so have no pages, and their lines do not change.
        """
        found: list[Block | tuple[Zone, Row]] = []
        offset, length = 0, len(text)
        while offset < length:
            known = self._empty.get(len(found))
            if known is not None and text.startswith(known[0], offset):
                found.append((known[1], known[2]))
                offset += len(known[0])
                continue
            block = block_at(text, offset)
            if block is None:
                self._empty = {}  # also when one of them goes on where it used to end
                return list(blocks_of(text))
            found.append(block)
            offset = block.end
        return found or list(blocks_of(text))

    def _zone(self, block: Block, place: int) -> tuple[Zone, Row]:
        """A block's zone, and what of it must be as in the reading before for the same order to hold."""
        node, name, node_stats, free, boost, min_, low, high, promo, *others = block.head.groups()
        spanned, present, managed, cma, early, stats, late = others
        shape = node, name, node_stats is None, boost is None, promo is None, present == b"0", cma is None, early, late
        known = self._known.get(shape)
        if known is None:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            known = self._known[shape] = int(node), name.strip().decode(), _protection(block, early or late)
        threshold = cpu_count = free_cma_pages = held_pages = compressed_pages = 0
        uses_told = False
        if stats is not None:
            self._check_unique(block, "stats", stats)
            free_cma_pages = _free_cma(block, stats, cma)
            cpu_count, threshold, on_cpus_pages = self._pagesets(block)
            held_pages, uses_told, compressed_pages = uses(node_stats, stats, self._page_size_bytes)
            held_pages += on_cpus_pages
        elif present != b"0" or managed != b"0":
            raise error_at(block.text, block.end, "the counters of a zone that has pages")
        if node_stats is not None:
            self._check_unique(block, "node_stats", node_stats)
        zone = Zone(
            known[0],
            known[1],
            int(free),
            0 if boost is None else int(boost),
            boost is not None,
            int(min_),
            int(low),
            int(high),
            int(managed),
            free_cma_pages,
            0 if cma is None else int(cma),
            cma is not None,
            known[2],
            threshold,
            cpu_count,
            held_pages,
            uses_told,
            compressed_pages,
        )
        _check_numbers(block, zone, int(spanned))
        if stats is None:
            self._empty[place] = (block.text[block.start() : block.end], zone, shape)
        return zone, shape

    def _check_unique(self, block: Block, group: str, region: bytes) -> None:
        """No counter stands twice. Names that differ without their digits differ with them: those are remembered."""
        shape = region.translate(None, _DIGITS)
        if shape in self._unique_regions:
            return
        seen: set[bytes] = set()
        for found in _STAT_NAME.finditer(region):
            if found[1] in seen:
                raise error_at(block.text, block.start(group) + found.start(), "a counter that was not there before")
            seen.add(found[1])
        names = _STAT_NAME.findall(shape)
        if len(set(names)) == len(seen) and len(self._unique_regions) < _MOST_KNOWN:
            self._unique_regions.add(shape)

    def _pagesets(self, block: Block) -> tuple[int, int, int]:
        """The number of CPUs, the largest threshold, and the pages on the CPUs' lists.

        A threshold stands for each CPU or for none (no SMP). The kernel sets the same for all CPUs of a zone, so lines
        like the first one are counted: with hundreds of CPUs that takes a tenth of the time to read each.
        """
        head = block.head
        text, start, end = head.string, head.end(), block.end
        found = _CPU_AND_COUNT.findall(text, start, end)
        numbers, counts = found[::2], found[1::2]
        if numbers != self._cpus_in_order:
            if any(later <= earlier for earlier, later in pairwise(map(int, numbers))):
                raise error_at(text, start, "CPU numbers in ascending order, none twice")
            self._cpus_in_order = numbers
        return len(numbers), _threshold(text, start, end, len(numbers)), sum(map(int, counts))


def _threshold(text: bytes, start: int, end: int, cpus: int) -> int:
    first = _THRESHOLD.search(text, start, end)
    if first is None:
        return 0
    threshold = int(first[1])
    if text.count(first[0], start, end) != cpus:
        thresholds = _THRESHOLD.findall(text, start, end)
        if len(thresholds) != cpus:
            raise error_at(text, start, "'vm stats threshold' for each CPU or for none")
        threshold = max(map(int, thresholds))
    if threshold > MAX_THRESHOLD:
        raise error_at(text, start, f"'vm stats threshold' of at most {MAX_THRESHOLD}")
    return threshold


def _check_order(blocks: list[Block]) -> None:
    """Nodes ascend, a node's zones ascend in type, fields are the same in all, node counters stand once a node."""
    first = blocks[0]
    layout = _layout(first)
    old_order = any(block["late_protection"] is not None for block in blocks)
    with_node_stats = any(block["node_stats"] is not None for block in blocks)
    previous = (-1, -1)
    first_populated_of = -1
    for block in blocks:
        node, kind = int(block["node"]), ZONE_TYPES.index(block["zone"].strip().decode())
        if (node, kind) <= previous:
            raise error_at(block.text, block.start(), "nodes and zones in ascending order, none twice")
        previous = (node, kind)
        if _layout(block) != layout:
            raise error_at(block.text, block.start(), "the same fields as in the zones before (boost, promo, cma)")
        late, early = block["late_protection"] is not None, block["protection"] is not None
        if late == early or late != old_order:
            raise error_at(block.text, block.start(), "protection once in each zone, at the same place in all")
        first_populated = block["present"] != b"0" and node != first_populated_of
        if first_populated:
            first_populated_of = node
        if (block["node_stats"] is not None) != (with_node_stats and first_populated):
            raise error_at(block.text, block.start(), "per-node stats in the first zone with pages of each node")


def _layout(block: Block) -> tuple[bool, bool, bool]:
    boost, promo, cma = block["boost"] is not None, block["promo"] is not None, block["cma"] is not None
    if (boost and not cma) or (promo and not boost):
        raise error_at(block.text, block.start(), "a kernel's set of fields: promo needs boost, boost needs cma")
    return boost, promo, cma


def _free_cma(block: Block, stats: bytes, cma: bytes | None) -> int:
    """`nr_free_cma` (since 3.7; 0 where the zone is said to have no CMA): a missing one is not 0."""
    at = stats.find(b"      nr_free_cma ")
    if at >= 0:
        start = at + len(b"      nr_free_cma ")
        return int(stats[start : stats.index(b"\n", start)])
    if cma == b"0":
        return 0
    raise error_at(block.text, block.head.end("stats"), "'nr_free_cma' among the counters of the zone")


def _protection(block: Block, counts: bytes | None) -> tuple[int, ...]:
    if counts is None:
        raise error_at(block.text, block.start("present"), "'protection: (a, b, ...)' in each zone")
    protection = tuple(map(int, counts.split(b", ")))
    if max(protection) > MAX_PAGES:
        raise error_at(block.text, _protection_offset(block), "page counts from 0 to 2^52")
    return protection


def _check_numbers(block: Block, zone: Zone, spanned_pages: int) -> None:
    """Every count is a count of pages, no part is larger than its whole, and the watermarks stand in their order."""
    free_pages, managed_pages, high_pages = zone.free_pages, zone.managed_pages, zone.high_pages
    if max(free_pages, high_pages, managed_pages, zone.cma_pages) > MAX_PAGES:
        name = next(name for name in ("free", "high", "managed", "cma") if int(block[name] or 0) > MAX_PAGES)
        raise error_at(block.text, block.start(name), "a page count from 0 to 2^52")
    drift = zone.cpus * MAX_THRESHOLD  # by how much a counter can be off, whatever the threshold was when it drifted
    if managed_pages > spanned_pages:
        raise error_at(block.text, block.start("managed"), f"managed not above spanned ({spanned_pages})")
    if free_pages > spanned_pages + drift:
        raise error_at(block.text, block.start("free"), f"pages free not above spanned ({spanned_pages})")
    if zone.free_cma_pages > free_pages + 2 * drift:
        raise error_at(block.text, _free_cma_offset(block), f"'nr_free_cma' not above pages free ({free_pages})")
    if zone.cma_known and zone.free_cma_pages > zone.cma_pages + drift:
        raise error_at(block.text, _free_cma_offset(block), f"'nr_free_cma' not above cma ({zone.cma_pages})")
    if zone.boost_pages > zone.min_pages:
        raise error_at(block.text, block.start("boost"), "boost not above min, which it is part of")
    if not zone.min_pages <= zone.low_pages <= high_pages:
        raise error_at(block.text, block.start("min"), "min <= low <= high")


def _free_cma_offset(block: Block) -> int:
    return block.text.index(b"      nr_free_cma ", block.start("stats"))


def _protection_offset(block: Block) -> int:
    return max(block.start("protection"), block.start("late_protection"))


def _normal_index(blocks: list[Block], zones: list[Zone]) -> int:
    """The place of class Normal in the protection lists, which have an entry for each zone type of the kernel.

    Since 4.12 every node prints every type. Before, empty zones are not printed: every set of types is tried that fits
    the names seen, the lists' length and the zeros up to a zone's own place; all that fit must give the same entries.
    """
    length = len(zones[0].protection)
    names: dict[int, list[str]] = {}
    for block, zone in zip(blocks, zones, strict=True):
        if len(zone.protection) != length:
            raise error_at(block.text, _protection_offset(block), f"{length} entries, as in the zones before")
        names.setdefault(zone.node, []).append(zone.name)
    seen = {name for members in names.values() for name in members}
    if blocks[0]["protection"] is not None:
        types = tuple(names[zones[0].node])
        for node, members in names.items():
            if tuple(members) != types or len(types) != length or not {"Normal", "Movable"} <= set(types):
                end = max(block.end for block, zone in zip(blocks, zones, strict=True) if zone.node == node)
                raise error_at(
                    blocks[0].text,
                    end,
                    f"{length} zones of node {node}, one for each entry of protection and alike in all nodes, "
                    f"not only {', '.join(members)}",
                )
        candidates = [types]
    else:
        candidates = [types for types in _configurations(length) if seen <= set(types)]
    fitting = [types for types in candidates if not any(_open_to_itself(zone, types) for zone in zones)]
    if not fitting:
        for block, zone in zip(blocks, zones, strict=True):
            if all(_open_to_itself(zone, types) for types in candidates):
                raise error_at(block.text, _protection_offset(block), f"0 in every entry up to {zone.name}'s own")
        raise error_at(blocks[0].text, _protection_offset(blocks[0]), "as many entries as there are zone types")
    indices = {types.index("Normal") for types in fitting}
    for block, zone in zip(blocks, zones, strict=True):
        if zone.name in COUNTABLE_ZONES and len({zone.protection[index] for index in indices}) > 1:
            raise error_at(block.text, _protection_offset(block), "one entry that can be class Normal's")
    return min(indices)


def _configurations(length: int) -> list[tuple[str, ...]]:
    """Every set of that many zone types that a kernel can have: Normal and Movable always."""
    return [types for types in combinations(ZONE_TYPES, length) if "Normal" in types and "Movable" in types]


def _open_to_itself(zone: Zone, types: tuple[str, ...]) -> bool:
    """Whether an entry up to the zone's own is not 0, which no kernel prints."""
    return any(zone.protection[: types.index(zone.name) + 1])
