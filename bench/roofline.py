"""The picture of kernels.py --compare: arithmetic intensity against throughput, under the roofs of the same run.

python bench/roofline.py RESULT.json [PICTURE.svg]    # draws what a run wrote, again
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

OURS = "lanewise"
TITLES = {"f32": "float32", "bf16": "bfloat16", "int8": "int8"}
BYTES = {"f32": (4, 4), "bf16": (2, 4), "int8": (1, 4)}  # of an operand, of a result
INK, GREY, BLUE = "#222222", "#8a8a8a", "#1261a0"
PEERS = {"numpy": ("o", "#6a9a3b"), "mkl": ("D", "#9467bd"), "blis": ("P", "#8c564b"), "torch": ("s", "#d9722e"),
         "mlas": ("^", "#c2336b")}  # fmt: skip


def rows(format: str, table: dict[str, Any]) -> list[dict[str, Any]]:
    """One dictionary a shape that was measured in peace: intensity, ours, best (library, rate), peak, read."""
    columns, (inner, outer) = table["columns"], BYTES[format]
    found: list[dict[str, Any]] = []
    for index, values in enumerate(table["rows"]):
        if index in table["disturbed"] or not any(values[3:-3]):
            continue
        row = dict(zip(columns, values, strict=True))
        m, n, k = row["m"], row["n"], row["k"]
        others = {c: row[c] for c in columns[3:-3] if not c.startswith(OURS) and row[c]}
        best = max(others, key=lambda name: others[name], default=None)
        found.append({
            "intensity": 2 * m * n * k / (inner * (n * k + m * k) + outer * m * n), "weights": inner * n * k,
            "ours": row.get(OURS) or row.get(f"{OURS} exact"), "peak": row["peak"], "read": row["read"],
            "peer": best.split()[0] if best else None, "best": others[best] if best else None,
        })  # fmt: skip
    return found


def roofs(axes: Any, found: list[dict[str, Any]], cache: float, low: float, high: float) -> None:
    """The peak, and one slope for memory and one for the last cache where weights were read from there."""
    peak = statistics.median(row["peak"] for row in found)
    lines = [axes.axhline(peak, color=INK, linewidth=1.1, zorder=1, label=f"peak {peak:.0f}")]
    kinds = {
        "memory": [row["read"] for row in found if row["weights"] > 2 * cache],
        "last cache": [row["read"] for row in found if cache / 8 < row["weights"] < 0.6 * cache],
    }
    for (name, reads), style in zip(kinds.items(), ((0, (1, 1.5)), (0, (5, 3))), strict=True):
        if reads:
            read = statistics.median(reads)
            label = f"{name} {read:.0f} GB/s"
            lines += axes.plot(
                [low, peak / read], [low * read, peak], color=INK, linewidth=1.1, linestyle=style, zorder=1, label=label
            )
    axes.legend(handles=lines, loc="lower right", fontsize=7.5, framealpha=0.9, edgecolor="none", handlelength=2.6)


def panel(axes: Any, format: str, found: list[dict[str, Any]], cache: float) -> None:
    values = [row[who] for row in found for who in ("ours", "best") if row[who]]
    low, high = min(row["intensity"] for row in found) * 0.75, max(row["intensity"] for row in found) * 1.5
    axes.set(xscale="log", yscale="log", xlim=(low, high), title=TITLES[format])
    bottom, top = min(values) * 0.7, max(*values, *(row["peak"] for row in found)) * 1.4
    axes.set_ylim(bottom, top)
    roofs(axes, found, cache, low, high)
    both = [row for row in found if row["ours"] and row["best"]]
    x = [row["intensity"] for row in both for _ in range(3)]
    y = [value for row in both for value in (row["ours"], row["best"], math.nan)]  # one line with gaps
    axes.plot(x, y, color="#cccccc", linewidth=0.8, zorder=2)
    for peer in dict.fromkeys(row["peer"] for row in found if row["best"]):
        marker, colour = PEERS.get(peer, ("o", GREY))
        points = [(row["intensity"], row["best"]) for row in found if row["peer"] == peer]
        axes.plot(
            *zip(*points, strict=True), marker, color=colour, markerfacecolor="white", markersize=4.2,
            markeredgewidth=0.9, zorder=3, label=peer,
        )  # fmt: skip
    ours = [(row["intensity"], row["ours"]) for row in found if row["ours"]]
    if ours:
        axes.plot(*zip(*ours, strict=True), "o", color=BLUE, markersize=4.2, zorder=4, label=OURS)
    for axis, subs in ((axes.xaxis, (1.0,)), (axes.yaxis, (1.0, 2.0, 5.0))):
        axis.set_major_locator(LogLocator(subs=subs, numticks=20))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_xlabel("operations a byte", color=INK)
    axes.grid(True, which="major", color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(data: dict[str, Any], file: Path) -> bool:
    """One panel a format; SVG, or what the name of the file says. False if there is nothing to draw."""
    machine = data["machine"]
    formats = {format: found for format, table in data["formats"].items() if (found := rows(format, table))}
    if not formats:
        return False
    cache = float(machine["caches"].get("l3") or machine["caches"]["l2"])
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "lanewise", "axes.edgecolor": GREY, "svg.fonttype": "none",
                         "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"]})  # fmt: skip
    figure, every = plt.subplots(1, len(formats), figsize=(4.1 * len(formats), 4.2), squeeze=False)
    for axes, (format, found) in zip(every[0], formats.items(), strict=True):
        panel(axes, format, found, cache)
    every[0][0].set_ylabel("GFLOP/s (int8: Gop/s)", color=INK)
    drawn = [pair for axes in every[0] for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    seen = {text: handle for handle, text in drawn if text == OURS or text in PEERS}
    names = sorted(seen, key=lambda name: (name != OURS, name))
    labels = [name if name == OURS else f"best peer: {name}" for name in names]
    figure.legend(
        [seen[name] for name in names], labels, loc="lower center", ncol=len(names), frameon=False, fontsize=8
    )
    threads = machine["threads"]
    title = f"Matrix products of transformer shapes, {machine['cpu']}, {threads} thread{'s' * (threads != 1)}"
    figure.suptitle(title, fontsize=10.5, color=INK)
    figure.tight_layout(rect=(0, 0.09, 1, 0.99))
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=160)
    plt.close(figure)
    if file.suffix == ".svg":
        file.write_text(re.sub(r"\n\s+", "\n", file.read_text()))
    return True


if __name__ == "__main__":
    source = Path(sys.argv[1])
    draw(json.loads(source.read_text()), Path(sys.argv[2]) if sys.argv[2:] else source.with_suffix(".svg"))
