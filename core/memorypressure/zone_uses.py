"""Who holds the pages of a zone or node, by the counters in its block of /proc/zoneinfo (names as of 4.8 to 6.18).

Before 4.8 the LRU lists stood in each zone; such a kernel counts as one that does not tell. Near a line this is read at
every sample, on some machines a hundred times slower than on others: so one expression for the order of 4.14 and later.
"""

import re

_LRU = (b"nr_inactive_anon", b"nr_active_anon", b"nr_inactive_file", b"nr_active_file", b"nr_unevictable")
_OTHERS = (b"nr_isolated_anon", b"nr_isolated_file", b"nr_slab_reclaimable")
_FIRST = re.compile(
    b"".join(rb"      " + name + rb" ++([0-9]++)\n" for name in (*_LRU, b"nr_slab_reclaimable"))
    + rb"      nr_slab_unreclaimable ++[0-9]++\n"
    + b"".join(rb"      " + name + rb" ++([0-9]++)\n" for name in _OTHERS[:2])
)
"""The first lines of a node's counters since 4.14 (include/linux/mmzone.h, enum node_stat_item)."""
_COMPRESSED = b"      nr_zspages "
_TABLES = b"      nr_page_table_pages "
_STACKS = b"      nr_kernel_stack "
"""In KiB (mm/vmstat.c: NR_KERNEL_STACK_KB), all others in pages. A counter of each zone, of the node since 5.9; page
tables since 5.11."""


def uses(node_stats: bytes | None, stats: bytes, page_bytes: int) -> tuple[int, bool, int]:
    """(pages held, whether all LRU lists are among them, pages of zsmalloc) by a block's counters of node and zone.

    Pages on the CPUs' lists are held, too, and stand in the pagesets.
    """
    compressed = _value(stats, _COMPRESSED)
    held = compressed
    if _STACKS in stats or _TABLES in stats:
        held += _tables_and_stacks(stats, page_bytes)
    if node_stats is None:
        return held, False, compressed
    first = _FIRST.match(node_stats)
    if first is not None:
        held += sum(map(int, first.groups()))
    elif any(b"      " + name + b" " not in node_stats for name in _LRU):
        return held, False, compressed
    else:
        held += sum(_value(node_stats, b"      " + name + b" ") for name in (*_LRU, *_OTHERS))
    return held + _tables_and_stacks(node_stats, page_bytes), True, compressed


def _tables_and_stacks(region: bytes, page_bytes: int) -> int:
    return _value(region, _TABLES) + _value(region, _STACKS) * 1024 // page_bytes


def _value(region: bytes, prefix: bytes) -> int:
    """The number behind it, 0 where it is not counted."""
    at = region.find(prefix)
    return 0 if at < 0 else int(region[at + len(prefix) : region.index(b"\n", at)])
