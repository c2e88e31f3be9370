"""Who holds the pages of a zone or node, by the counters in its block of /proc/zoneinfo (names as of 4.8 to 6.18)."""

import re

_LRU = (b"nr_inactive_anon", b"nr_active_anon", b"nr_inactive_file", b"nr_active_file", b"nr_unevictable")
_COMPRESSED = b"nr_zspages"
_STACKS = b"nr_kernel_stack"
"""In KiB (mm/vmstat.c: NR_KERNEL_STACK_KB), all others in pages."""
_HELD = (
    *_LRU,
    b"nr_isolated_anon",
    b"nr_isolated_file",
    b"nr_slab_reclaimable",
    b"nr_page_table_pages",
    _COMPRESSED,
    _STACKS,
)
_USES = re.compile(rb"^      (" + b"|".join(_HELD) + rb") ++([0-9]++)$", re.MULTILINE)
_COUNT = re.compile(rb"              count: ++([0-9]++)\n")


def uses(regions: tuple[bytes, ...], text: bytes, start: int, end: int, page_bytes: int) -> tuple[int, bool, int]:
    """(pages held, whether all LRU lists are among them, pages of zsmalloc) of a block.

    `regions` are its counters, of the node and of the zone; its pagesets stand in `text[start:end]`.
    """
    found = {name: int(value) for region in regions for name, value in _USES.findall(region)}
    if _STACKS in found:
        found[_STACKS] = found[_STACKS] * 1024 // page_bytes
    on_lists = sum(map(int, _COUNT.findall(text, start, end)))
    return sum(found.values()) + on_lists, all(name in found for name in _LRU), found.get(_COMPRESSED, 0)
