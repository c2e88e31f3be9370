"""Records on their way to the API: every one is shown, none is new twice, whatever fails or is restarted."""

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from memorypressure_agent.reporter.history import KEPT, SHOWN, History

Record = dict[str, Any]


def record(number: int, text: str = "", journal: str = "aaaa1111") -> Record:
    return {"id": f"{journal}-a{number}", "text": text}


def numbers(window: list[Record]) -> list[int]:
    return [int(each["id"].rpartition("a")[2]) for each in window]


def with_records(*given: int) -> History:
    history = History()
    for number in given:
        history.add(record(number))
    return history


def test_an_empty_history_shows_nothing() -> None:
    assert History().window() == []


def test_the_newest_comes_first_and_ten_are_shown_at_most() -> None:
    history = with_records(*range(1, 4))
    assert numbers(history.window()) == [3, 2, 1]
    history.reported(history.window())
    for number in range(4, 31):
        history.add(record(number))
        history.reported(history.window())
    assert numbers(history.window()) == list(range(30, 20, -1))


def test_a_backlog_goes_out_oldest_first_five_new_ones_a_write_and_each_is_shown_twice() -> None:
    history = with_records(*range(1, 13))
    shown = []
    while history.unreported:
        shown.append(numbers(history.window()))
        history.reported(history.window())
    assert shown == [[5, 4, 3, 2, 1], list(range(10, 0, -1)), list(range(12, 2, -1))]
    assert numbers(history.window()) == list(range(12, 2, -1))


def test_a_write_that_failed_changes_nothing() -> None:
    history = with_records(1, 2)
    assert [history.window(), history.window()] == [[record(2), record(1)]] * 2
    assert history.unreported == 2


def test_a_record_that_changes_is_new_again_and_keeps_its_place() -> None:
    history = with_records(1, 2)
    history.reported(history.window())
    history.add(record(1))
    assert history.unreported == 0
    history.add(record(1, "ended"))
    assert history.unreported == 1
    assert history.window() == [record(2), record(1, "ended")]


def test_a_record_that_changes_while_a_write_is_under_way_is_reported_by_the_next() -> None:
    history = with_records(1)
    under_way = history.window()
    history.add(record(1, "ended"))
    history.reported(under_way)
    assert history.window() == [record(1, "ended")]
    assert history.unreported == 1


def test_after_a_restart_only_what_came_after_the_newest_in_the_api_is_new() -> None:
    for add_first in (True, False):
        history = History()
        if not add_first:
            history.seed([record(number) for number in range(20, 10, -1)])
        for number in range(1, 23):  # the whole journal is read again
            history.add(record(number))
        if add_first:
            history.seed([record(number) for number in range(20, 10, -1)])
        assert history.unreported == 2
        assert numbers(history.window()) == list(range(22, 12, -1))


def test_after_a_restart_in_a_backlog_the_rest_of_it_is_new() -> None:
    history = with_records(*range(1, 16))
    history.seed([record(number) for number in range(5, 0, -1)])
    assert history.unreported == 10
    assert numbers(history.window()) == list(range(10, 0, -1))


def test_records_of_an_earlier_journal_stay_before_those_of_the_new_one_and_hide_none() -> None:
    history = History()
    history.add(record(1, journal="bbbb2222"))
    history.seed([record(40), record(39)])
    assert history.window() == [record(1, journal="bbbb2222"), record(40), record(39)]
    assert history.unreported == 1


def test_ids_without_a_number_are_kept_and_hide_none() -> None:
    history = History()
    history.seed([{"id": "by hand"}, {"text": "no id"}])
    history.add(record(1))
    assert history.window() == [record(1), {"id": "by hand"}]


def test_no_more_is_kept_than_is_needed_and_all_that_is_not_reported() -> None:
    history = with_records(*range(1, 1001))
    assert history.unreported == 1000
    while history.unreported:
        history.reported(history.window())
    history.add(record(1001))
    assert len(history._records) == KEPT


class Restarts(RuleBasedStateMachine):
    """A journal that grows, an API server that answers or not, a reporter that dies: what an operator sees."""

    @initialize(before=st.integers(0, 15))
    def begin(self, before: int) -> None:
        self.journal: list[Record] = []
        self.final: dict[str, Record] = {}
        self.status: list[Record] = []
        self.remembered: set[str] = set()
        self.told: list[str] = []
        self.seen: list[Record] = []
        for _ in range(before):
            self.happens()
        self.restart(seed_first=False)

    @rule()
    def happens(self) -> None:
        """Something ends, and the reporter, if it runs, reads it."""
        new = record(len(self.final) + 1, "v1")
        self.journal.append(new)
        self.final[new["id"]] = new
        if hasattr(self, "history"):
            self.history.add(new)

    @rule(back=st.integers(1, 3))
    def changes(self, back: int) -> None:
        """One of the last records is written again, as a running episode's is."""
        if len(self.final) >= back:
            before = list(self.final.values())[-back]
            changed = {**before, "text": before["text"] + "+"}
            self.journal.append(changed)
            self.final[changed["id"]] = changed
            self.history.add(changed)

    @rule()
    def writes(self) -> None:
        window = self.history.window()
        self.store(window)
        self.history.reported(window)

    @rule()
    def writes_and_hears_no_answer(self) -> None:
        self.store(self.history.window())

    @rule()
    def fails_to_write(self) -> None:
        self.history.window()

    @rule(seed_first=st.booleans())
    def restart(self, seed_first: bool) -> None:
        self.history = History()
        if seed_first:
            self.history.seed(self.status)
        for each in self.journal:
            self.history.add(each)
        if not seed_first:
            self.history.seed(self.status)

    def store(self, window: list[Record]) -> None:
        """What the operator does with a status: new are the ids that the last status did not have."""
        self.status = window
        self.told += [each["id"] for each in reversed(window) if each["id"] not in self.remembered]
        self.remembered = {each["id"] for each in window}
        self.seen += window

    @invariant()
    def a_status_has_room_for_it_and_is_in_order(self) -> None:
        if self.status:
            assert len(self.status) <= SHOWN
            assert numbers(self.status) == sorted(numbers(self.status), reverse=True)

    @invariant()
    def nothing_is_told_twice_or_in_another_order(self) -> None:
        if hasattr(self, "told"):
            assert self.told == [f"aaaa1111-a{number + 1}" for number in range(len(self.told))]

    def teardown(self) -> None:
        """With the API server back, everything is told, in the form that it had at last."""
        if not hasattr(self, "history"):
            return
        writes = 0
        while self.history.unreported:
            self.writes()
            writes += 1
            assert writes <= len(self.final), "a backlog that does not shrink"
        self.nothing_is_told_twice_or_in_another_order()
        assert set(self.told) == set(self.final)
        assert all(each in self.seen for each in self.final.values())


Restarts.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_every_record_is_shown_and_new_once_through_failures_and_restarts = Restarts.TestCase
