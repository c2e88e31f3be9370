"""Machines that are not at hand: every kernel format from 4.4 to 6.18 on fourteen kinds of machine."""

import pytest
from support import naive, shapes

from memorypressure.zones import Line, NumaNode, ZoneInfo, ZoneInfoError, ZoneInfoReader, parse_zoneinfo, signature

AMBIGUOUS = {("arm64 with 64 KiB pages", kernel) for kernel in shapes.KERNELS if kernel < (4, 12)}
EVERYTHING = [
    pytest.param(name, kernel, id=f"{name}-{kernel[0]}.{kernel[1]}")
    for name in shapes.SHAPES
    for kernel in shapes.KERNELS
    if (name, kernel) not in AMBIGUOUS
]


def parsed(machine: shapes.Machine) -> ZoneInfo:
    """The machine's zoneinfo, parsed."""
    return parse_zoneinfo(shapes.zoneinfo(machine), machine.page_size_bytes)


def node_of(machine: shapes.Machine, number: int = 0) -> NumaNode:
    """One node of the machine."""
    node = parsed(machine).node(number)
    assert node is not None
    return node


@pytest.mark.parametrize(("name", "kernel"), EVERYTHING)
def test_every_machine_is_read_as_it_is_under_every_kernel(name: str, kernel: tuple[int, int]) -> None:
    machine = shapes.SHAPES[name](kernel)
    info = parsed(machine)
    made = {(node, zone.name): zone for node, zones in machine.nodes.items() for zone in zones}
    read = {(zone.node, zone.name): zone for zone in info.zones if zone.managed_pages}
    assert read.keys() == made.keys()
    for key, zone in read.items():
        shape = made[key]
        boost = shape.boost_pages if kernel >= (5, 0) else 0
        assert zone.free_pages == shape.free_pages
        assert zone.min_pages == shape.min_pages + boost
        assert zone.low_pages == zone.min_pages + shape.step_pages
        assert zone.high_pages == zone.low_pages + shape.step_pages
        assert (zone.managed_pages, zone.free_cma_pages) == (shape.managed_pages, shape.free_cma_pages)
        assert (zone.boost_known, zone.cma_known) == (kernel >= (5, 16), kernel >= (5, 12))
        assert zone.protection == machine.protection_of(*key)
        assert (zone.cpus, zone.stat_threshold_pages) == (machine.cpus, shape.threshold_pages if machine.smp else 0)
    assert len(info.zones) == (len(made) if kernel < (4, 12) else len(machine.types) * len(machine.nodes))


@pytest.mark.parametrize(("name", "kernel"), EVERYTHING)
def test_a_plain_reading_of_the_words_finds_the_same_numbers(name: str, kernel: tuple[int, int]) -> None:
    machine = shapes.SHAPES[name](kernel)
    text = shapes.zoneinfo(machine)
    for zone, block in zip(parse_zoneinfo(text, machine.page_size_bytes).zones, naive.read(text), strict=True):
        assert (zone.node, zone.name, zone.protection) == (block.node, block.name, block.protection)
        assert zone.free_pages == block.numbers["free"]
        assert zone.min_pages == block.numbers["min"]
        assert zone.high_pages == block.numbers["high"]


def test_an_old_kernel_without_empty_zones_may_leave_class_normal_in_doubt() -> None:
    with pytest.raises(ZoneInfoError, match="one entry that can be class Normal's"):
        parsed(shapes.arm64_64k((4, 9)))


@pytest.mark.parametrize(
    ("machine", "index"),
    [
        pytest.param(shapes.one_node(), 2, id="x86"),
        pytest.param(shapes.one_node((4, 9)), 2, id="x86 before empty zones were printed"),
        pytest.param(shapes.arm64_64k(), 2, id="arm64 with an empty DMA32"),
        pytest.param(shapes.highmem(), 1, id="32 bit"),
        pytest.param(shapes.highmem((4, 9)), 1, id="32 bit before empty zones were printed"),
        pytest.param(shapes.no_dma(), 0, id="no DMA zones"),
        pytest.param(shapes.cma(), 1, id="DMA32 but no DMA"),
        pytest.param(
            shapes.Machine((6, 1), {0: (shapes.normal(1 << 20, 9000, 900),)}, types=shapes.ALL_TYPES), 2, id="all six"
        ),
    ],
)
def test_class_normals_place_follows_from_the_kernels_zone_types(machine: shapes.Machine, index: int) -> None:
    assert parsed(machine).normal_index == index


@pytest.mark.parametrize("kernel", [(5, 0), (5, 10), (5, 15)])
def test_before_5_16_boost_is_invisible_and_stays_in_raw_min(kernel: tuple[int, int]) -> None:
    zone = shapes.normal(1 << 20, 9000, 600, boost_pages=1400)
    (counted,) = node_of(shapes.Machine(kernel, {0: (zone,)}, types=shapes.NO_DMA)).counted
    assert not counted.zone.boost_known
    assert counted.zone.raw_min_pages == 2000


def test_before_5_16_a_moving_boost_is_no_change_of_signature_and_a_moving_min_is() -> None:
    def marks(boost: int, minimum: int) -> object:
        zone = shapes.normal(1 << 20, 9000, minimum, boost_pages=boost)
        return signature(parsed(shapes.Machine((5, 15), {0: (zone,)}, types=shapes.NO_DMA)))

    assert marks(0, 8000) == marks(1400, 8000)
    assert marks(0, 8000) != marks(0, 9000)


def test_a_terabyte_closes_dma32_and_normal_alone_decides() -> None:
    low = shapes.normal(1 << 28, 8434, 16_867)
    machine = shapes.terabyte()
    dma, dma32, _ = machine.nodes[0]
    node = node_of(shapes.Machine((6, 18), {0: (dma, dma32, low)}, cpus=8))
    assert [(counted.zone.name, counted.closed(Line.ATOMIC_RESERVE)) for counted in node.counted] == [
        ("DMA32", True),
        ("Normal", False),
    ]
    assert node.below(Line.ATOMIC_RESERVE)
    assert not node_of(machine).below(Line.HIGH)


def test_open_dma32_keeps_a_node_above_although_normal_is_empty() -> None:
    dma, dma32, normal = shapes.one_node().nodes[0]
    empty = shapes.normal(normal.managed_pages, 0, normal.min_pages)
    assert not node_of(shapes.Machine((6, 18), {0: (dma, dma32, empty)})).below(Line.HIGH)


def test_free_cma_is_not_usable() -> None:
    node = node_of(shapes.cma())
    assert node.counted[0].zone.usable_pages == 1000
    assert node.below(Line.ATOMIC_RESERVE)


def test_a_gigabyte_of_dma_counts_and_a_small_one_counts_where_it_is_all() -> None:
    assert [counted.zone.name for counted in node_of(shapes.arm64_64k()).counted] == ["DMA", "Normal"]
    tiny = shapes.Machine((6, 1), {0: (shapes.ZoneShape("DMA", 3000, 100, 50),)}, types=("DMA", "Normal", "Movable"))
    assert [counted.zone.name for counted in node_of(tiny).counted] == ["DMA"]


@pytest.mark.parametrize(
    ("page_size", "managed", "counts"),
    [(4096, 4096, False), (4096, 4097, True), (16384, 1024, False), (65536, 256, False), (65536, 257, True)],
)
def test_sixteen_mebibytes_are_small_whatever_the_page_size(page_size: int, managed: int, counts: bool) -> None:
    zones = (shapes.ZoneShape("DMA", managed, 100, 5), shapes.normal(1 << 20, 50_000, 900))
    machine = shapes.Machine((6, 18), {0: zones}, page_size_bytes=page_size)
    assert ("DMA" in [counted.zone.name for counted in node_of(machine).counted]) is counts


def test_highmem_movable_and_device_never_count() -> None:
    assert [counted.zone.name for counted in node_of(shapes.highmem()).counted] == ["Normal"]
    assert [counted.zone.name for counted in node_of(shapes.movable()).counted] == ["DMA32", "Normal"]
    assert [counted.zone.name for counted in node_of(shapes.device(), 1).counted] == ["Normal"]
    assert node_of(shapes.device(), 1).uncounted_managed_pages == 1 << 19


def test_a_movable_zone_above_its_low_is_said_and_an_empty_one_is_not() -> None:
    assert node_of(shapes.movable()).movable_above_low
    assert not node_of(shapes.one_node()).movable_above_low
    full = shapes.Machine((6, 18), {0: (*shapes.one_node().nodes[0], shapes.ZoneShape("Movable", 2_000_000, 900, 32))})
    assert not node_of(full).movable_above_low


def test_nodes_without_memory_are_left_out() -> None:
    info = parsed(shapes.with_memoryless_nodes())
    assert [node.number for node in info.nodes] == [0, 1, 2]
    assert [node.number for node in info.counted_nodes] == [1]
    assert not any(node.below(line) for node in info.nodes if node.number != 1 for line in Line)


def test_one_reader_reads_machine_after_machine_as_a_fresh_one_would() -> None:
    reader = ZoneInfoReader(4096)
    texts = [
        (name, kernel, shapes.zoneinfo(shapes.SHAPES[name](kernel)))
        for kernel in shapes.KERNELS
        for name in shapes.SHAPES
        if (name, kernel) not in AMBIGUOUS
    ]
    for name, kernel, text in (*texts, *reversed(texts)):
        assert reader.parse(text) == parse_zoneinfo(text, 4096), (name, kernel)
