"""Who took the pages that a NUMA node lacks to min: buffers, filled at interrupt time, or somebody else.

Ordinary allocations stop at min. Who goes below is interrupt-time receive (GFP_ATOMIC), and whoever works for reclaim
itself (PF_MEMALLOC, without any watermark): above all swap-out to zram or zswap, which takes a page to give back more.
What the first take is in no counter of /proc/zoneinfo; what the others take is (`nr_zspages`). So between a sample
above min and one below,

    pages lacking  <=  growth of what nobody claims  +  growth of what reclaim took

and a node is drained by buffers when what nobody claims grew by most of what is lacking. Measured on recordings of
floods and of swapping without one: docs/decisions/2026-11-26-who-took-the-reserve.md.
"""

from dataclasses import dataclass

from memorypressure.zone_values import NumaNode, ZoneInfo

ENOUGH_PERCENT = 75
"""Of the pages that are lacking. In floods it is 100 and more but for the counters' lag."""

MOST_AGE_NS = 60_000_000_000
"""A sample above min that is older says nothing: in a minute all kinds of memory come and go."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A NUMA node at its last sample above min (without boost), in pages; a zone of it may have lacked some then."""

    node: int
    time_ns: int
    unclaimed_pages: int
    lacking_pages: int


Marks = tuple[Mark, ...]
"""One for each node that was above min and tells who holds its pages."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a node lacks to min, and what of it buffers took, since it was above min."""

    lacking_pages: int
    by_buffers_pages: int

    @property
    def by_buffers(self) -> bool:
        """Whether buffers took most of it."""
        return self.lacking_pages > 0 and self.by_buffers_pages * 100 >= self.lacking_pages * ENOUGH_PERCENT


def marked(marks: Marks, zones: ZoneInfo, time_ns: int) -> Marks:
    """The marks after a full reading: nodes that are above min now get a new one."""
    kept = []
    for node in zones.nodes:
        unclaimed = node.unclaimed_pages
        if not node.counted or unclaimed is None:
            continue
        lacking = node.lacking_to_raw_min_pages()
        if 0 in lacking:
            kept.append(Mark(node.number, time_ns, unclaimed, sum(lacking)))
        else:
            kept += [mark for mark in marks if mark.node == node.number]
    return tuple(kept)


def taken(marks: Marks, node: NumaNode, time_ns: int) -> Taken | None:
    """Who took what the node lacks; None where no sample above min is known, or nothing is told.

    Where there is compressed swap its counters may lag: so much is not taken for the buffers' part.
    """
    mark = next((each for each in marks if each.node == node.number), None)
    if mark is None or node.unclaimed_pages is None or time_ns - mark.time_ns > MOST_AGE_NS:
        return None
    lacking = sum(node.lacking_to_raw_min_pages()) - mark.lacking_pages
    grown = node.unclaimed_pages - mark.unclaimed_pages - node.compressed_error_pages
    return Taken(max(0, lacking), max(0, grown))
