"""What the sentinel counts of its actions."""

from memorypressure_agent.sentinel.counters import MOST_ENDED, Counts


def test_actions_are_counted_by_policy_mode_and_result() -> None:
    counts = Counts()
    for policy, mode in (("a", "Enforce"), ("a", "Enforce"), ("a", "DryRun"), ("b", "Enforce")):
        counts.end(policy, mode, "Success")
    assert counts.ended == {
        ("a", "Enforce", "Success"): 2,
        ("a", "DryRun", "Success"): 1,
        ("b", "Enforce", "Success"): 1,
    }


def test_policies_that_come_and_go_leave_no_counters_without_end() -> None:
    counts = Counts()
    for number in range(3 * MOST_ENDED):
        counts.end(f"policy-{number}", "Enforce", "Success")
        counts.end("policy-0" if number < MOST_ENDED else "kept", "Enforce", "Success")
    assert len(counts.ended) == MOST_ENDED
    assert (f"policy-{3 * MOST_ENDED - 1}", "Enforce", "Success") in counts.ended
    assert ("policy-0", "Enforce", "Success") not in counts.ended
