"""From slices to figures: medians of per-round ratios. A round in which base strays is dropped, and said so."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Slice = dict[str, Any]
Key = tuple[str, str, int]  # database, endpoint, connections
STRAYS = 2  # times its median, up or down


@dataclass
class Figures:
    """All slices that count, and what was left out."""

    rounds: dict[Key, dict[int, dict[str, Slice]]] = field(default_factory=lambda: defaultdict(dict))
    dropped: list[str] = field(default_factory=list)

    def cpu(self, key: Key, name: str) -> float | None:
        """Microseconds of server CPU for an answer."""
        return _median(cost(slices[name]) for slices in self.rounds[key].values() if name in slices)

    def database_cpu(self, key: Key, name: str) -> float | None:
        """The same, of the PostgreSQL cluster."""
        return _median(cost(slices[name], "database_cpu") for slices in self.rounds[key].values() if name in slices)

    def ratio(self, key: Key, name: str, other: str) -> float | None:
        """How many times the server CPU of `name` that of `other` is, round by round."""
        both = [slices for slices in self.rounds[key].values() if name in slices and other in slices]
        return _median(cost(slices[name]) / cost(slices[other]) for slices in both)

    def rate(self, key: Key, name: str) -> float | None:
        """Answers a second."""
        return _median(s[name]["requests"] / s[name]["seconds"] for s in self.rounds[key].values() if name in s)

    def p99(self, key: Key, name: str) -> float | None:
        """Milliseconds within which 99 of 100 answers came."""
        return _median(slices[name]["p99"] for slices in self.rounds[key].values() if name in slices)


def figures(slices: Iterable[Slice]) -> Figures:
    found = Figures()
    for slice_ in slices:
        if not slice_["froze"] and not any(slice_["errors"].values()):
            key = slice_["database"], slice_["endpoint"], slice_["connections"]
            found.rounds[key].setdefault(slice_["round"], {})[slice_["contender"]] = slice_
    for key, rounds in found.rounds.items():
        usual = found.cpu(key, "base")
        for number, slices_ in list(rounds.items()):
            is_straying = "base" in slices_ and usual and not 1 / STRAYS <= cost(slices_["base"]) / usual <= STRAYS
            if is_straying:
                found.dropped.append("{}, {} at {} connections, round {}".format(*key, number))
                del rounds[number]
    return found


def cost(slice_: Slice, whose: str = "cpu") -> float:
    return float(slice_[whose]) / slice_["requests"] * 1e6


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None
