"""The ledger: sums, ages that are never overestimated, and a text that betrays every edit."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memorypressure import ledger as ledger_module
from memorypressure.book import Book
from memorypressure.ledger import BUCKET_NS, BUCKETS, Entry, Ledger, LedgerError
from memorypressure.reasons import Reason
from memorypressure.spec_values import Limits, Share

S = 1_000_000_000
ENTRY = Entry("n1", "inc-1", ceiling=3, counted=1, beat=4, grant_seconds=900)
LIMITS = Limits(60, 3, Share(percent=10), Share(percent=10), 20, 5, Share(percent=10), 900)
entries = st.builds(
    Entry,
    st.sampled_from(["n1", "n2"]),
    st.text(alphabet="abc", min_size=1, max_size=3),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(180, 3600),
    st.booleans(),
)


def with_entry(ledger: Ledger, entry: Entry) -> Ledger:
    book = Book(ledger)
    book.put(entry)
    return book.ledger()


def spend(ledger: Ledger, kills: int) -> Ledger:
    book = Book(ledger)
    book.spend(kills)
    return book.ledger()


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    made = Ledger(
        draw(st.integers(0, 99)),
        tuple(draw(st.lists(st.integers(0, 5), min_size=BUCKETS, max_size=BUCKETS))),
        draw(st.integers(0, BUCKET_NS - 1)),
        quarantine_ns=draw(st.integers(0, 10 * S)),
    )
    for entry in draw(st.lists(entries, max_size=4)):
        made = with_entry(made, entry)
    return made


def test_standing_and_spent_are_what_may_still_be_and_what_was_killed() -> None:
    lost = replace(ENTRY, incarnation="inc-0", lost=True)
    ledger = spend(with_entry(with_entry(Ledger(), ENTRY), lost), 4)
    assert (ledger.standing, ledger.spent) == (2, 6)
    assert ledger.of_node("n1") == (lost, ENTRY)


changes = st.one_of(entries, st.text(alphabet="abc", min_size=1, max_size=3), st.integers(-1, 3))


@given(ledgers(), st.lists(changes, max_size=12))
def test_the_running_sums_of_a_round_are_those_of_the_ledger_it_ends_with(
    ledger: Ledger, work: list[Entry | str | int]
) -> None:
    book = Book(ledger)
    assert book.ledger() is ledger
    for change in work:
        match change:
            case Entry():
                book.put(change)
                assert book.entry(change.incarnation) == change
            case str():
                book.drop(change)
                assert book.entry(change) is None
            case _:
                book.spend(change)
        made = book.ledger()
        assert (book.standing, book.spent) == (made.standing, made.spent)
        assert book.entries_bytes == sum(map(ledger_module.entry_bytes, made.entries))
        assert len(book.entries()) == len(made.entries)
        assert [entry.incarnation for entry in made.entries] == sorted({each.incarnation for each in book.entries()})
        assert all(book.of_node(node) == made.of_node(node) for node in ("n1", "n2"))


@given(st.integers(0, 2 * BUCKET_NS), st.lists(st.integers(1, 40 * 60 * S), max_size=12))
def test_a_kill_is_spent_for_at_least_an_hour_and_at_most_five_minutes_more(before: int, steps: list[int]) -> None:
    ledger = spend(ledger_module.aged(Ledger(), before), 1)
    age = 0
    for step in steps:
        ledger = ledger_module.aged(ledger, step)
        age += step
        if age < 3600 * S:
            assert ledger.spent == 1
        if age > 3600 * S + BUCKET_NS:
            assert ledger.spent == 0


@given(ledgers(), st.integers(0, 5000 * S), st.integers(0, 5000 * S))
def test_age_adds_up(ledger: Ledger, one: int, two: int) -> None:
    assert ledger_module.aged(ledger_module.aged(ledger, one), two) == ledger_module.aged(ledger, one + two)


def test_a_clock_that_goes_back_is_refused() -> None:
    with pytest.raises(ValueError, match="monotonic"):
        ledger_module.aged(Ledger(), -1)


RAISES = [
    ("an empty ledger", Ledger(), 10, None),
    ("standing at the limit", with_entry(Ledger(), ENTRY), 20, Reason.STANDING_LIMIT),
    ("standing below it", with_entry(Ledger(), ENTRY), 30, None),
    ("spent up to the sum", spend(Ledger(), 6), 10, Reason.BUDGET_EXHAUSTED),
    ("spent below it", spend(Ledger(), 5), 10, None),
    ("in quarantine", Ledger(quarantine_ns=1), 10, Reason.LEDGER_QUARANTINE),
]


@pytest.mark.parametrize(("name", "ledger", "nodes", "reason"), RAISES, ids=[each[0] for each in RAISES])
def test_ceilings_rise_while_both_sums_have_room(name: str, ledger: Ledger, nodes: int, reason: Reason | None) -> None:
    against = ledger_module.against_raising(ledger, LIMITS, nodes, 1)
    assert (against[0] if against else None) is reason


def test_a_share_of_the_nodes_is_rounded_up_and_zero_is_none() -> None:
    assert [ledger_module.max_standing(LIMITS, nodes) for nodes in (1, 10, 11)] == [1, 1, 2]
    assert ledger_module.max_standing(replace(LIMITS, max_standing_kills=Share(count=0)), 100) == 0


def test_the_exposure_is_the_sum_of_both_limits() -> None:
    exposure = ledger_module.exposure(with_entry(Ledger(), ENTRY), LIMITS, 42)
    assert (exposure.standing_kills, exposure.worst_case_hour) == (2, 5 + 5)


def test_after_limits_were_lowered_the_exposure_still_counts_what_is_out() -> None:
    ledger = spend(with_entry(Ledger(), replace(ENTRY, ceiling=9)), 3)
    assert ledger_module.exposure(ledger, replace(LIMITS, kills_per_hour=0), 1).worst_case_hour == 8 + 3


@given(ledgers())
def test_the_ledger_comes_back_from_its_config_map(ledger: Ledger) -> None:
    assert ledger_module.decode(ledger_module.encode(ledger)) == ledger


@given(ledgers())
def test_an_entry_takes_what_it_is_said_to_take(ledger: Ledger) -> None:
    empty = len(ledger_module.encode(replace(ledger, entries=()))[ledger_module.KEY])
    size = sum(map(ledger_module.entry_bytes, ledger.entries)) - bool(ledger.entries)
    assert len(ledger_module.encode(ledger)[ledger_module.KEY]) == empty + size


@given(ledgers(), st.data())
def test_every_edit_of_a_figure_is_noticed(ledger: Ledger, data: st.DataObject) -> None:
    text = ledger_module.encode(ledger)[ledger_module.KEY]
    places = [index for index, character in enumerate(text) if character.isdigit()]
    at = data.draw(st.sampled_from(places))
    digit = data.draw(st.sampled_from([each for each in "0123456789" if each != text[at]]))
    with pytest.raises(LedgerError, match="delete the ConfigMap"):
        ledger_module.decode({ledger_module.KEY: text[:at] + digit + text[at + 1 :]})


def resealed(**changes: object) -> dict[str, str]:
    """A ledger that somebody changed and sealed again: its types are still checked."""
    body = json.loads(ledger_module.encode(with_entry(Ledger(), ENTRY))[ledger_module.KEY])
    del body["digest"]
    body.update(changes)
    return {ledger_module.KEY: json.dumps({**body, "digest": ledger_module._digest(body)})}


TWICE = [
    dict(
        zip(
            ("node", "incarnation", "ceiling", "counted", "beat", "grantSeconds", "lost"),
            ("n", "i", 1, 1, 1, 1, False),
            strict=True,
        )
    )
] * 2
BAD = [
    ("nothing", None, "ledger: is missing"),
    ("another key", {"x": ""}, "ledger: is missing"),
    ("no JSON", {ledger_module.KEY: "{"}, "is no JSON"),
    ("a list", {ledger_module.KEY: "[]"}, "is no object"),
    ("NaN", {ledger_module.KEY: "NaN"}, "is no JSON"),
    ("another version", {ledger_module.KEY: '{"version": 2}'}, "version: is 2"),
    ("no digest", {ledger_module.KEY: '{"version": 1}'}, "was edited"),
    ("negative", resealed(serial=-1), "serial"),
    ("a bool", resealed(serial=True), "serial"),
    ("few buckets", resealed(buckets=[0]), "buckets"),
    ("a text bucket", resealed(buckets=["x"] * BUCKETS), r"buckets\[0\]"),
    ("an old bucket", resealed(bucketAgeNanoseconds=BUCKET_NS), "bucketAge"),
    ("entries no list", resealed(entries={}), "entries"),
    ("an entry no object", resealed(entries=[1]), r"entries\[0\]"),
    ("an incarnation twice", resealed(entries=TWICE), "each once"),
    ("one more field", resealed(more=1), "more"),
]


@pytest.mark.parametrize(("name", "data", "named"), BAD, ids=[each[0] for each in BAD])
def test_a_ledger_that_cannot_be_trusted_says_what_is_wrong_and_what_to_do(
    name: str, data: dict[str, str] | None, named: str
) -> None:
    with pytest.raises(LedgerError, match=named) as refusal:
        ledger_module.decode(data)
    assert "delete the ConfigMap" in str(refusal.value)


def test_a_lost_ledger_waits_for_the_longest_grant_and_an_hour() -> None:
    assert ledger_module.adopted((), used_before=False, grant_seconds=900) == Ledger()
    made = ledger_module.adopted((replace(ENTRY, grant_seconds=3600),), used_before=False, grant_seconds=900)
    assert made.entries[0].grant_seconds == 3600
    assert made.quarantine_ns >= (3600 * 11 // 10 + 3600) * S
    assert ledger_module.aged(made, made.quarantine_ns).quarantine_ns == 0
