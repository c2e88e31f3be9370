"""Who holds the pages of a zone or node, by the counters in its block of /proc/zoneinfo (names as of 4.8 to 6.18).

Before 4.8 the LRU lists stood in each zone; such a kernel counts as one that does not tell.
"""

import re

_LRU = ("nr_inactive_anon", "nr_active_anon", "nr_inactive_file", "nr_active_file", "nr_unevictable")
_OF_NODE = tuple(
    f"      {name} ".encode() for name in (*_LRU, "nr_isolated_anon", "nr_isolated_file", "nr_slab_reclaimable")
)
_COMPRESSED = b"      nr_zspages "
_TABLES = b"      nr_page_table_pages "
_STACKS = b"      nr_kernel_stack "
"""In KiB (mm/vmstat.c: NR_KERNEL_STACK_KB), all others in pages. With the page tables of the node since 5.11, of zones
before."""
_COUNT = re.compile(rb"              count: ++([0-9]++)\n")


def uses(
    node_stats: bytes | None, stats: bytes, text: bytes, start: int, end: int, page_bytes: int
) -> tuple[int, bool, int]:
    """(pages held, whether all LRU lists are among them, pages of zsmalloc) of a block.

    `node_stats` and `stats` are its counters of the node and of the zone; its pagesets stand in `text[start:end]`.
    """
    compressed = _value(stats, _COMPRESSED) or 0
    held = compressed + sum(map(int, _COUNT.findall(text, start, end)))
    of_node = [_value(node_stats, name) for name in _OF_NODE] if node_stats is not None else []
    for region in (stats,) if node_stats is None else (stats, node_stats):
        held += (_value(region, _TABLES) or 0) + (_value(region, _STACKS) or 0) * 1024 // page_bytes
    told = [pages for pages in of_node if pages is not None]
    return held + sum(told), bool(of_node) and None not in of_node[: len(_LRU)], compressed


def _value(region: bytes, prefix: bytes) -> int | None:
    at = region.find(prefix)
    return None if at < 0 else int(region[at + len(prefix) : region.index(b"\n", at)])
