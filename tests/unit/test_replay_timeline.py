"""Recordings: what is read, and every mistake with its line."""

import io
from pathlib import Path

import pytest

from memorypressure_agent.errors import BadInputError
from memorypressure_agent.replay.timeline import read_timeline

CAPTURES = Path(__file__).resolve().parent.parent / "fixtures" / "captures"
HEADER = "t,node,zone,free,boost,min\n"


def read(text: str | bytes) -> list[object]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_timeline("r.csv", io.BytesIO(data)))


@pytest.mark.parametrize(("name", "rows"), [("flood", 2941), ("noflood", 2645)])
def test_the_captures_are_read_to_the_last_row(name: str, rows: int) -> None:
    with (CAPTURES / f"timeline-6.1-1node-{name}.csv").open("rb") as file:
        assert len(list(read_timeline(name, file))) == rows


def test_rows_of_one_time_are_one_sample() -> None:
    samples = read(HEADER + "0.5,0,DMA32,100,1,10\n0.5,1,Normal,200,,20\n0.51,0,DMA32,99,1,10\n0.51,1,Normal,199,,20\n")
    assert [(s.time_ns, [(z.node, z.name, z.free, z.boost) for z in s.zones]) for s in samples] == [  # type: ignore[attr-defined]
        (500_000_000, [(0, "DMA32", 100, 1), (1, "Normal", 200, None)]),
        (510_000_000, [(0, "DMA32", 99, 1), (1, "Normal", 199, None)]),
    ]


def test_a_zone_that_is_there_again_begins_the_next_sample_of_the_same_time() -> None:
    samples = read(HEADER + "2.026,0,DMA32,100,0,10\n2.026,0,DMA32,90,0,10\n")
    assert [s.zones[0].free for s in samples] == [100, 90]  # type: ignore[attr-defined]


def test_columns_may_come_in_any_order_with_spaces_a_byte_order_mark_and_windows_line_ends() -> None:
    samples = read("\ufeffmin, free,t,node,zone,boost\r\n10, 100, 0 ,0, DMA32 ,0\r\n\r\n")
    assert samples[0].zones[0].free == 100  # type: ignore[attr-defined]


ONE = HEADER + "0.0,0,DMA32,100,0,10\n"
BAD = {
    "an empty file": ("", "r.csv: is empty; a recording begins with a header such as t,node,zone,free,boost,min"),
    "a header alone": (HEADER, "r.csv: no sample after the header; record some rows"),
    "no header": (
        "0.0,0,DMA32,100,0,10\n",
        "r.csv:1: column 1: unknown column '0.0'; known are: t, node,",
    ),
    "a missing column": (
        "t,node,zone,free,min\n",
        "r.csv:1: no column 'boost'; a recording needs t,node,zone,free,boost,min",
    ),
    "an unknown column": (
        "t,node,zone,free,boost,min,manged\n",
        "r.csv:1: column 7: unknown column 'manged' (did you mean 'managed'?); known are: t, node,",
    ),
    "a column named twice": (
        "t,node,zone,free,boost,min,free\n",
        "r.csv:1: column 7: 'free' is already column 4; name it once",
    ),
    "a word for a page count": (
        ONE + "0.1,0,DMA32,many,0,10\n",
        "r.csv:3: column 'free': 'many' is not a whole number of pages from 0 to 2^52",
    ),
    "a size with a unit": (
        ONE + "0.1,0,DMA32,87356 kB,0,10\n",
        "r.csv:3: column 'free': '87356 kB' is not a whole number of pages from 0 to 2^52",
    ),
    "a fraction of a page": (
        ONE + "0.1,0,DMA32,1.5,0,10\n",
        "r.csv:3: column 'free': '1.5' is not a whole number of pages",
    ),
    "a negative count": (ONE + "0.1,0,DMA32,-5,0,10\n", "r.csv:3: column 'free': '-5' is not a whole number"),
    "a huge count": (
        ONE + f"0.1,0,DMA32,{2**52 + 1},0,10\n",
        "r.csv:3: column 'free': '4503599627370497' is not a whole number of pages from 0 to 2^52",
    ),
    "digits without end": (
        ONE + f"0.1,0,DMA32,{'9' * 3000},0,10\n",
        f"r.csv:3: column 'free': '{'9' * 40}' is not a whole number of pages from 0 to 2^52",
    ),
    "an Arabic digit": (ONE + "0.1,0,DMA32,\u0663,0,10\n", "r.csv:3: column 'free': '\u0663' is not"),
    "an empty cell": (ONE + "0.1,0,DMA32,,0,10\n", "r.csv:3: column 'free': '' is not a whole number of pages"),
    "time that goes back": (
        ONE + "0.3,0,DMA32,1,0,10\n0.2,0,DMA32,1,0,10\n",
        "r.csv:4: t 0.200 comes after 0.300; the time must not go back",
    ),
    "time that is not a number": (
        ONE + "nan,0,DMA32,1,0,10\n",
        "r.csv:3: column 't': 'nan' is not seconds such as 12.345, from 0 to 10000000000",
    ),
    "a time in words": (ONE + "12:30:01,0,DMA32,1,0,10\n", "r.csv:3: column 't': '12:30:01' is not seconds"),
    "a huge time": (ONE + "99999999999,0,DMA32,1,0,10\n", "r.csv:3: column 't': '99999999999' is not seconds"),
    "a short row": (
        ONE + "0.1,0,DMA",
        "r.csv:3: 3 cells, the header has 6 columns; is the recording cut off here?",
    ),
    "a long row": (ONE + "0.1,0,DMA32,1,0,10,7\n", "r.csv:3: 7 cells, the header has 6 columns"),
    "a zone that does not exist": (
        ONE + "0.1,0,Normall,1,0,10\n",
        "r.csv:3: column 'zone': 'Normall' is not one of DMA, DMA32, Normal, HighMem, Movable, Device",
    ),
    "a node that does not exist": (ONE + "0.1,-1,DMA32,1,0,10\n", "r.csv:3: column 'node': '-1' is not a NUMA node"),
    "boost above min": (
        ONE + "0.1,0,DMA32,1,11,10\n",
        "r.csv:3: boost 11 is more than min 10, which includes it; are columns exchanged?",
    ),
    "a sample without a zone of the first": (
        HEADER + "0.0,0,DMA32,1,0,10\n0.0,1,Normal,1,0,10\n0.1,0,DMA32,1,0,10\n",
        "r.csv:4: the sample that begins here lacks 1/Normal; each sample must list the zones of the first",
    ),
    "a sample with another zone": (
        ONE + "0.1,0,DMA32,1,0,10\n0.1,0,Normal,1,0,10\n",
        "r.csv:3: the sample that begins here adds 0/Normal;",
    ),
    "low under min": (
        "t,node,zone,free,boost,min,low\n0,0,DMA32,1,0,10,9\n",
        "r.csv:2: low 9 is less than min 10; are columns exchanged?",
    ),
    "figures of one sample that differ": (
        "t,node,zone,free,boost,min,mem_total\n0,0,DMA32,1,0,10,5\n0,0,Normal,1,0,10,6\n",
        "r.csv:3: column 'mem_total': differs from line 2; rows of one time carry one value",
    ),
    "a percentage above 100": (
        "t,node,zone,free,boost,min,psi_full_avg10\n0,0,DMA32,1,0,10,101\n",
        "r.csv:2: column 'psi_full_avg10': '101' is not a percentage from 0 to 100",
    ),
    "a page size that no machine has": (
        "t,node,zone,free,boost,min,page_size\n0,0,DMA32,1,0,10,5000\n",
        "r.csv:2: column 'page_size': '5000' is not a page size in bytes: a power of two from 4096 to 65536",
    ),
    "a quote that does not end": (ONE + '0.1,0,"DMA32,1,0,10\n', "r.csv:3: not CSV: unexpected end of data"),
    "a NUL byte": (b"t,node\0", "r.csv:1: not text (a NUL byte); a recording is CSV in UTF-8"),
    "a binary file": (b"\x89PNG\r\n\x1a\n\xff\xfe", "r.csv:1: not text; a recording is CSV in UTF-8"),
    "a compressed file": (
        b"\x1f\x8b\x08\0",
        "r.csv: is compressed; unpack it: zcat r.csv | memorypressure-agent replay",
    ),
    "a line without end": (b"t" * 5000, "r.csv:1: longer than 4096 bytes; not a recording in CSV"),
    "semicolons": ("t;node;zone;free;boost;min\n", "r.csv:1: column 1: unknown column 't;node;zone;free;boost;min'"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_named_with_its_file_and_line(text: str | bytes, message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        read(text)
    assert str(caught.value).startswith(message)


def test_samples_before_a_mistake_are_given_out_first() -> None:
    samples = read_timeline("r.csv", io.BytesIO((ONE + "0.1,0,DMA32,1,0,10\n0.2,bad\n").encode()))
    assert next(samples).time_ns == 0
