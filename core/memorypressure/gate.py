"""The gate: one cheap number per NUMA node that proves the node is not below a line.

`nr_free_pages` of /sys/devices/system/node/nodeN/vmstat is the sum of the same counters that /proc/zoneinfo prints.
While it is above a node's gate the node cannot be below the line, and the full reading may wait. For a node below its
line every counted zone has `free <= line + free CMA`, or is closed and has `free <= managed + error <= line + error`;
the other zones have `free <= managed + error`. The gate is the sum of these bounds.

It is computed from the last full reading (at most a second old); what may move in between is bounded, not assumed:
free CMA by the zone's CMA total and its counter's error (by all of the zone before 5.12, where the total is not
printed: the gate then never shuts), boost by the most the kernel would set (`boost_watermark()` in mm/page_alloc.c).
What is not bounded is a change of min, protection or managed (sysctl, THP, hotplug): it counts from the next full
reading, which restarts all windows.
"""

import re
from collections.abc import Iterable

from memorypressure.signals import SourceError
from memorypressure.zone_values import MAX_PAGES, CountedZone, Line, NumaNode, Zone, ZoneInfo

LARGEST_PAGEBLOCK_PAGES = 8192
"""arm64 with 64 KiB pages; a zone of fewer than four pageblocks is never boosted."""

DEFAULT_BOOST_FACTOR = 15000
"""vm.watermark_boost_factor: boost is at most this many ten-thousandths of high, or one pageblock."""

_VMSTAT = re.compile(rb"nr_free_pages (0|[1-9][0-9]{0,15}+)\n(?:[a-z][a-z0-9_]*+ [0-9]{1,20}+\n)*")


class NodeVmstatError(SourceError):
    """A node's vmstat is not understood: the line, its text and what should stand there."""


def gate_threshold_pages(
    node: NumaNode,
    line: Line,
    margin_percent: int = 0,
    *,
    clear_line: bool = False,
    boost_factor: int = DEFAULT_BOOST_FACTOR,
) -> int:
    """The node cannot be below `line` while its free pages are more than this.

    With `clear_line` the same holds for the higher line at which a trigger on `line` clears.
    """
    threshold = node.uncounted_managed_pages + node.uncounted_error_pages
    for counted in node.counted:
        zone = counted.zone
        mark = _highest_mark_pages(counted, line, margin_percent, boost_factor, clear_line=clear_line)
        threshold += mark + (zone.cma_pages if zone.cma_known else zone.managed_pages)
        if zone.cma_pages:
            threshold += zone.error_pages
        if zone.managed_pages <= mark:
            threshold += zone.error_pages
    return threshold


def gate_thresholds(
    info: ZoneInfo,
    watched: Iterable[tuple[Line, int]],
    *,
    clear_lines: bool = False,
    boost_factor: int = DEFAULT_BOOST_FACTOR,
) -> tuple[tuple[int, int], ...]:
    """(node, pages) of each judged node: the highest gate over all watched (line, margin in percent).

    `clear_lines` must be True while a trigger is active: a shut gate then also says that it may clear.
    """
    lines = tuple(watched)
    return tuple(
        (
            node.number,
            max(
                (
                    gate_threshold_pages(node, line, margin, clear_line=clear_lines, boost_factor=boost_factor)
                    for line, margin in lines
                ),
                default=-1,
            ),
        )
        for node in info.counted_nodes
    )


def parse_node_vmstat_free(text: bytes) -> int:
    """`nr_free_pages` of a node's vmstat, in pages; the whole text must be complete lines. Raises NodeVmstatError."""
    found = _VMSTAT.fullmatch(text)
    if found is None:
        raise _vmstat_error(text)
    free_pages = int(found[1])
    if free_pages > MAX_PAGES:
        raise NodeVmstatError("node vmstat", 1, _shown(text.split(b"\n")[0]), "a page count from 0 to 2^52")
    return free_pages


def _highest_mark_pages(
    counted: CountedZone, line: Line, margin_percent: int, boost_factor: int, *, clear_line: bool
) -> int:
    """The zone's line if it were boosted as far as the kernel would go."""
    mark = counted.clear_line_pages(line, margin_percent) if clear_line else counted.line_pages(line, margin_percent)
    zone = counted.zone
    if zone.boost_known and not clear_line and line in (Line.ATOMIC_RESERVE, Line.ATOMIC_FLOOR):
        return mark
    return mark + -(-_boost_to_come_pages(zone, boost_factor) * (100 + margin_percent) // 100)


def _boost_to_come_pages(zone: Zone, boost_factor: int) -> int:
    if not boost_factor:
        return 0
    raw_high = zone.high_pages - zone.boost_pages
    pageblock = min(LARGEST_PAGEBLOCK_PAGES, zone.managed_pages // 4)
    return max(0, max(raw_high * boost_factor // 10000, pageblock) - zone.boost_pages)


def _vmstat_error(text: bytes) -> NodeVmstatError:
    found = _VMSTAT.match(text)
    offset = found.end() if found else 0
    number = text.count(b"\n", 0, offset) + 1
    expected = "a counter's name and number" if found else "'nr_free_pages' and a page count from 0 to 2^52"
    return NodeVmstatError("node vmstat", number, _shown(text[offset:].split(b"\n")[0]), expected)


def _shown(line: bytes) -> str:
    return line[:60].decode("ascii", "backslashreplace") or "end of text"
