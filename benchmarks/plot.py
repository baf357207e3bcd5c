"""The report as a picture: for each database CPU against base by endpoint, and answers a second by connections."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt

from benchmarks.figures import Figures, figures
from benchmarks.report import FLOOR, TITLES, fewest


def draw(data: dict[str, Any], file: Path) -> None:
    found, names = figures(data["slices"]), data["contenders"]
    databases = list(dict.fromkeys(key[0] for key in found.rounds))
    picture, rows = plt.subplots(len(databases), 2, figsize=(14, 5 * len(databases)), squeeze=False)
    colours = dict(zip(names, plt.colormaps["tab10"].colors, strict=False))
    for database, (left, right) in zip(databases, rows, strict=True):
        _costs(left, found, database, names, colours)
        _rates(right, found, database, names, colours)
    picture.tight_layout()
    picture.savefig(file, dpi=110)


def _costs(axes: Any, found: Figures, database: str, names: list[str], colours: dict[str, Any]) -> None:
    keys = [key for key in found.rounds if key[0] == database and key[2] == fewest(found)]
    shown = [name for name in names if name != "base"]
    width = 0.8 / max(len(shown), 1)
    for at, name in enumerate(shown):
        heights = [found.ratio(key, "base", name) or 0 for key in keys]
        places = [place + at * width for place in range(len(keys))]
        bars = axes.bar(places, heights, width, label=name, color=colours[name])
        axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=7)
    axes.axhline(FLOOR, color="grey", linestyle="--", linewidth=1, label=f"floor: {FLOOR}")
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(keys))], [key[1] for key in keys])
    axes.set_title(f"{TITLES[database]}: times less server CPU than base, {fewest(found)} connections")
    axes.legend(fontsize=8)


def _rates(axes: Any, found: Figures, database: str, names: list[str], colours: dict[str, Any]) -> None:
    for name in names:
        for endpoint, line in (("one", "-"), ("mix", "--")):
            keys = [key for key in found.rounds if key[:2] == (database, endpoint)]
            points = [(key[2], rate) for key in keys if (rate := found.rate(key, name)) is not None]
            if points:
                axes.plot(
                    *zip(*points, strict=True), line, marker="o", label=f"{name}, {endpoint}", color=colours[name]
                )
    axes.set_xscale("log")
    counts = sorted({key[2] for key in found.rounds if key[0] == database})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title(f"{TITLES[database]}: answers a second, by connections (one: solid, mix: dashed)")
    axes.legend([plt.Line2D([], [], color=colours[name]) for name in names], names, fontsize=8)
