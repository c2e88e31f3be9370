"""How several processes share out the test files: the longest first, and files with one set-up in one process.

By itself xdist gives out the files with most tests first. Here those have the quickest tests, and the few whose cases
wait for minutes would come last, with nothing left to do beside them.
"""

from typing import Any, Final

import pytest

TOGETHER: Final = {
    f"tests/{file}.py": files[0]
    for files in (
        ("integration/test_grants", "integration/test_path_bad_input"),
        (
            "integration/test_reporter",
            "integration/test_reporter_objects",
            "integration/test_reporter_outages",
            "integration/test_reporter_pace",
            "integration/test_reporter_rights",
        ),
        ("integration/test_operator_actions", "integration/test_operator_orders", "integration/test_operator_path"),
        ("chart/test_admission", "chart/test_agent_rights", "chart/test_operator_rights", "chart/test_type_checking"),
    )
    for file in files
}
"""File -> the first of those that share a set-up; apart, each process would make it, and run all of its cases."""
SECONDS: Final = {
    f"tests/{file}.py": seconds
    for file, seconds in {
        "integration/test_operator_faults": 100,
        "integration/test_path_outages": 70,
        "integration/test_grants": 70,
        "integration/test_path_bad_input": 70,
        "chart/test_lifecycle": 85,
        "integration/test_operator_storms": 60,
        "integration/test_operator_chaos": 60,
        "integration/test_operator_time": 40,
        "integration/test_kill_refusals": 30,
        "images/test_images": 80,
        "integration/test_operator_actions": 60,
        "integration/test_operator_orders": 60,
        "integration/test_operator_replicas": 60,
        "integration/test_operator_path": 60,
        "integration/test_reporter": 50,
        "integration/test_reporter_objects": 50,
        "integration/test_reporter_outages": 50,
        "integration/test_reporter_pace": 50,
        "integration/test_reporter_rights": 50,
        "integration/test_controlplane": 35,
        "integration/test_crd_policies": 25,
        "integration/test_secure_metrics": 25,
    }.items()
}
"""File -> about how long it takes, for those of more than 25 s; which comes first is all that follows from it."""


def scheduler(config: pytest.Config, log: Any) -> Any:
    """What gives out whole files in the order in which they are collected."""
    from xdist.scheduler import LoadFileScheduling

    class WholeFiles(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return TOGETHER.get(file_of(nodeid), file_of(nodeid))

    config.option.loadscopereorder = False  # or those with most tests came first
    return WholeFiles(config, log)


def file_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.partition("::")[0]


def longest_first(items: list[pytest.Item]) -> None:
    """Sorts by the time of the tests' files; files that are not listed come after, those with most tests first."""
    counts: dict[str, int] = {}
    for item in items:
        name = file_of(item.nodeid)
        counts[name] = counts.get(name, 0) + 1
    items.sort(key=lambda item: (-SECONDS.get(file_of(item.nodeid), 0), -counts[file_of(item.nodeid)]))
