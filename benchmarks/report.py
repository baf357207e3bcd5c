"""What was measured, for people: tables in Markdown, with what misses the floor marked."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from benchmarks.figures import Figures, figures
from benchmarks.measure import failure

FLOOR = 6  # times less server CPU than base, on every endpoint and both databases
MISSED = " **(below)**"
TITLES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def below_floor(found: Figures) -> list[str]:
    """Where the app with everything on misses the floor at the fewest connections, or was not measured."""
    ratios = {key: found.ratio(key, "base", "cadre") for key in found.rounds if key[2] == fewest(found)}
    return [
        f"{endpoint} on {database}: {show(ratio, 1)} times less CPU than base, not {FLOOR}"
        for (database, endpoint, _), ratio in ratios.items()
        if ratio is None or ratio < FLOOR
    ]


def write(data: dict[str, Any]) -> str:
    """The report as one Markdown text."""
    found, names = figures(data["slices"]), data["contenders"]
    parts = ["# What a request costs\n", summary(data)]
    for database in dict.fromkeys(key[0] for key in found.rounds):
        keys = [key for key in found.rounds if key[0] == database]
        few = [key for key in keys if key[2] == fewest(found)]
        parts += [
            f"## {TITLES[database]}\n",
            f"Microseconds of server CPU for an answer at {fewest(found)} connections, and how much less than base:\n",
            costs(found, few, names),
            ratios(found, few, names),
            database_costs(found, few, names) if database == "postgresql" else "",
            "For information: answers a second / milliseconds within which 99 of 100 came.\n",
            throughput(found, keys, names),
            logins([slice_ for slice_ in data["logins"] if slice_["database"] == database]),
        ]
    return "\n".join(part for part in [*parts, left_out(data, found)] if part)


def summary(data: dict[str, Any]) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in data["machine"].items())
    load = " and ".join(f"{value:.2f}" for value in data["load"])
    return (
        f"{facts}. Load average {load} before and after; it took {data['minutes']:.0f} minutes.\n\n"
        "Slices in turn, A B C and then C B A, all contenders up all the time; medians of the ratios of each round.\n"
        "`benchmarks/README.md` says who the contenders are.\n"
    )


def costs(found: Figures, keys: list[Any], names: list[str]) -> str:
    def cell(key: Any, name: str) -> str:
        ratio = found.ratio(key, "base", name)
        missed = MISSED if name == "cadre" and ratio is not None and ratio < FLOOR else ""
        return f"{show(found.cpu(key, name))} ({show(ratio, 1)}x){missed}"

    return table(["", *names], ([key[1], *(cell(key, name) for name in names)] for key in keys))


def ratios(found: Figures, keys: list[Any], names: list[str]) -> str:
    others = [name for name in names if name not in ("cadre", "base")]
    rows = ([key[1], *(show(found.ratio(key, "cadre", other), 2) for other in others)] for key in keys)
    return "The app's server CPU as a multiple of another's:\n\n" + table(["", *others], rows) if others else ""


def database_costs(found: Figures, keys: list[Any], names: list[str]) -> str:
    rows = ([key[1], *(show(found.database_cpu(key, name)) for name in names)] for key in keys)
    return "Microseconds of CPU of the whole PostgreSQL cluster for an answer:\n\n" + table(["", *names], rows)


def throughput(found: Figures, keys: list[Any], names: list[str]) -> str:
    rows = (
        [key[1], str(key[2]), *(f"{show(found.rate(key, name))} / {show(found.p99(key, name))}" for name in names)]
        for key in keys
    )
    return table(["", "connections", *names], rows)


def logins(slices: list[Any]) -> str:
    if not slices:
        return ""
    rows = (
        [s["contender"], str(s["clients"]), show(s["p50"], 1), show(s["p99"], 1), show(s["requests"] / s["seconds"])]
        + [str(s["logins"].get(what, 0)) for what in ("succeeded", "refused", "failed", "broken")]
        for s in slices
    )
    head = ["", "clients", "p50 ms", "p99 ms", "reads/s", "logins", "refused", "failed", "broken"]
    return "Reads (one) while clients log in with real hashes:\n\n" + table(head, rows)


def left_out(data: dict[str, Any], found: Figures) -> str:
    lines = [*data["notes"], *(f"Dropped, since base strayed: {where}" for where in found.dropped)]
    failed: dict[str, list[str]] = defaultdict(list)
    for slice_ in data["slices"] + data["logins"]:
        if failure(slice_):
            what = "froze" if slice_["froze"] else "answered with errors"
            where = "{contender} on {database}, {endpoint} at {connections} connections".format_map(slice_)
            failed[f"{where}, {what}"].append(str(slice_["round"]))
    lines += [f"Not counted: {what}, rounds {', '.join(rounds)}" for what, rounds in failed.items()]
    if {"base", "cadre"} <= set(data["contenders"]):
        lines += [f"Below the floor: {missed}" for missed in below_floor(found)]
    return "## Left out, and missed\n\n" + "\n".join(f"- {line}." for line in lines or ["Nothing"]) + "\n"


def fewest(found: Figures) -> int:
    return min(key[2] for key in found.rounds)


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def show(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
