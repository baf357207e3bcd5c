"""What the benchmark says can be trusted: it drops what strays, counts no failure, and is not fooled by silence."""

from typing import Any

import pytest

from benchmarks.figures import figures
from benchmarks.measure import failure
from benchmarks.report import below_floor
from benchmarks.same import refuse_if_different

ONE = ("sqlite", "one", 16)


def slice_of(contender: str, number: int, cpu: float, **changed: Any) -> dict[str, Any]:
    """A second in which `contender` answered 1000 times with `cpu` milliseconds of CPU."""
    said = {"requests": 1000, "seconds": 1.0, "p99": 1.0, "errors": {"status": 0, "timeout": 0}, "froze": False}
    where = {"database": "sqlite", "endpoint": "one", "connections": 16, "round": number, "contender": contender}
    return {**where, **said, "cpu": cpu / 1000, "database_cpu": 0.0, **changed}


def rounds(*costs: tuple[float, float]) -> list[dict[str, Any]]:
    """Rounds of base and of the app."""
    both = enumerate(costs, 1)
    return [slice_of(name, n, cpu) for n, pair in both for name, cpu in zip(("base", "cadre"), pair, strict=True)]


def test_a_ratio_is_the_median_of_each_rounds_own():
    found = figures(rounds((600, 100), (800, 100), (1000, 250)))
    assert found.ratio(ONE, "base", "cadre") == 6
    assert found.cpu(ONE, "cadre") == 100
    assert found.dropped == []


def test_a_round_in_which_base_strays_is_dropped_and_named():
    found = figures(rounds((600, 100), (600, 100), (600, 100), (1300, 100), (290, 100)))
    assert found.dropped == [f"sqlite, one at 16 connections, round {number}" for number in (4, 5)]
    assert sorted(found.rounds[ONE]) == [1, 2, 3]


def test_a_slice_with_an_error_or_with_silence_is_told_and_not_counted():
    wrong = slice_of("cadre", 1, 100, errors={"status": 3, "timeout": 0})
    silent = slice_of("base", 2, 600, froze=True, requests=2)
    assert failure(wrong) == "cadre on sqlite, one at 16 connections, round 1: 3 status errors"
    assert failure(silent) == "base on sqlite, one at 16 connections, round 2: froze: 2 answers"
    assert failure(slice_of("cadre", 3, 100)) is None
    found = figures([slice_of("base", 1, 600), wrong, silent, slice_of("cadre", 2, 100)])
    assert found.ratio(ONE, "base", "cadre") is None


def test_what_misses_the_floor_is_named():
    assert below_floor(figures(rounds((600, 100)))) == []
    assert below_floor(figures(rounds((590, 100)))) == ["one on sqlite: 5.9 times less CPU than base, not 6"]
    # No figure is no success.
    assert below_floor(figures([slice_of("base", 1, 600)])) == ["one on sqlite: - times less CPU than base, not 6"]


def test_who_answers_otherwise_is_not_compared():
    refuse_if_different({"cadre": [(200, {"id": 1})], "base": [(200, {"id": 1})]})
    with pytest.raises(SystemExit, match=r"reader asks GET /users/me :\n  cadre: .*'id': 1.*\n  base: .*'id': 2"):
        refuse_if_different({"cadre": [(200, {"id": 1})], "base": [(200, {"id": 2})]})
