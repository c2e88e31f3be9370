"""/proc/meminfo and memory pressure files: exact values, or an error with its line."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memorypressure.signals import MemInfo, Psi, PsiLine, SourceError, parse_meminfo, parse_psi

MEMINFO = b"""MemTotal:        8000000 kB
MemFree:          100000 kB
MemAvailable:     900000 kB
Active(anon):      60000 kB
SwapTotal:       2000000 kB
SwapFree:        1500000 kB
HugePages_Total:     100
HugePages_Free:       90
Hugepagesize:       2048 kB
Hugetlb:         1228800 kB
"""
PSI = (
    b"some avg10=1.50 avg60=0.25 avg300=100.00 total=123456789\nfull avg10=0.00 avg60=0.01 avg300=0.02 total=18446744\n"
)


def without(name: bytes) -> bytes:
    """The meminfo without one line."""
    return b"".join(line for line in MEMINFO.splitlines(keepends=True) if not line.startswith(name + b":"))


def test_meminfo_is_read_in_bytes() -> None:
    assert parse_meminfo(MEMINFO) == MemInfo(
        total_bytes=8_000_000 * 1024,
        available_bytes=900_000 * 1024,
        swap_total_bytes=2_000_000 * 1024,
        swap_free_bytes=1_500_000 * 1024,
        hugetlb_bytes=1_228_800 * 1024,
    )


def test_without_hugetlb_the_default_pool_counts_and_without_pools_nothing() -> None:
    older = without(b"Hugetlb")
    assert parse_meminfo(older).hugetlb_bytes == 100 * 2048 * 1024
    none = older.replace(b"HugePages_Total:     100\n", b"").replace(b"Hugepagesize:       2048 kB\n", b"")
    assert parse_meminfo(none).hugetlb_bytes == 0


def test_this_machine_is_understood() -> None:
    memory = parse_meminfo(Path("/proc/meminfo").read_bytes())
    assert 0 < memory.available_bytes <= memory.total_bytes
    pressure = Path("/proc/pressure/memory")
    if pressure.exists():
        assert parse_psi(pressure.read_bytes()).some.avg10 >= 0


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        (b"", "end of text", "'Name:   N kB'"),
        (MEMINFO[:-1], "Hugetlb:         1228800 kB", "'Name:   N kB'"),
        (MEMINFO.replace(b"900000 kB", b"-900000 kB"), "MemAvailable:     -900000 kB", "'Name:   N kB'"),
        (MEMINFO.replace(b"900000 kB", b"900000 MB"), "MemAvailable:     900000 MB", "'Name:   N kB'"),
        (MEMINFO.replace(b"900000 kB", b"900000"), "MemAvailable:     900000", "an amount in kB"),
        (MEMINFO.replace(b"    100\n", b"    100 kB\n"), "HugePages_Total:     100 kB", "a count of pages"),
        (MEMINFO + b"MemTotal: 5 kB\n", "MemTotal: 5 kB", "MemTotal only once"),
        (
            MEMINFO.replace(b"2000000", b"99999999999999999999"),
            "SwapTotal:       99999999999999999999 kB",
            "2^64 bytes",
        ),
        (MEMINFO.replace(b"8000000", b"800000"), "MemTotal:        800000 kB", "not less than MemAvailable"),
        (MEMINFO.replace(b"8000000", b"0"), "MemTotal:        0 kB", "not less than MemAvailable"),
        (without(b"MemAvailable"), "end of text", "a line MemAvailable"),
        (without(b"SwapFree"), "end of text", "a line SwapFree"),
        (without(b"Hugetlb").replace(b"Hugepagesize:       2048 kB\n", b""), "end of text", "or neither"),
        (b"\xff\xfe" + MEMINFO, "\\xff\\xfeMemTotal:        8000000 kB", "'Name:   N kB'"),
    ],
)
def test_a_meminfo_that_is_not_understood_is_named_by_its_line(text: bytes, line: str, expected: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse_meminfo(text)
    assert caught.value.line == line
    assert expected in caught.value.expected
    assert str(caught.value).startswith(f"meminfo line {caught.value.line_number}: ")


def test_pressure_is_read_in_percent_and_microseconds() -> None:
    assert parse_psi(PSI) == Psi(PsiLine(1.5, 0.25, 100.0, 123456789), PsiLine(0.0, 0.01, 0.02, 18446744))


def test_a_pressure_file_without_a_full_line_has_none() -> None:
    assert parse_psi(PSI.splitlines(keepends=True)[0]).full is None


@pytest.mark.parametrize(
    ("text", "line_number"),
    [
        (b"", 1),
        (PSI[:-1], 2),
        (PSI.replace(b"some", b"any"), 1),
        (PSI.replace(b"0.25", b"-0.25"), 1),
        (PSI.replace(b"0.25", b"0,25"), 1),
        (PSI.replace(b"0.01", b"100.01"), 2),
        (PSI + PSI, 3),
        (PSI.splitlines(keepends=True)[1] + PSI.splitlines(keepends=True)[0], 1),
        (b"\x00" * 100, 1),
    ],
)
def test_a_pressure_file_that_is_not_understood_is_named_by_its_line(text: bytes, line_number: int) -> None:
    with pytest.raises(SourceError, match=r"^pressure line") as caught:
        parse_psi(text)
    assert caught.value.line_number == line_number


@settings(max_examples=300)
@given(st.sampled_from((MEMINFO, PSI)), st.data())
def test_damage_is_an_error_or_a_value_that_the_text_says(text: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"9", b"\n", b" ", b"-", b"kB"])))
    damaged = text[:at] + junk + text[at + data.draw(st.integers(0, 8)) :]
    try:
        value = parse_meminfo(damaged) if text is MEMINFO else parse_psi(damaged)
    except SourceError:
        return
    words = damaged.decode().replace("=", " ").split()
    if isinstance(value, MemInfo):
        assert str(value.total_bytes // 1024) in [word.lstrip("0") for word in words]
        assert value.available_bytes <= value.total_bytes
    else:
        assert [float(word) for word in words if "." in word][:3] == [
            value.some.avg10, value.some.avg60, value.some.avg300
        ]  # fmt: skip
