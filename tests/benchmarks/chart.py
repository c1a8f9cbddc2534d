"""The benchmark's chart: for each case the time of every contender by the time of a copy, on a log scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from report import number

PEERS = {"eager": "PyTorch eager", "compile": "torch.compile", "mkldnn": "PyTorch mkldnn"}
PEERS |= {"onnxruntime": "ONNX Runtime", "jax": "JAX", "opencv": "OpenCV"}
# In the order of a benchmark's labels, of which the first is this package's.
COLORS = ("#d62728", "#4c566a", "#7b8cae", "#a9b4c7", "#3c8d93", "#86bf91", "#d9b44a")
BAR, GAP = 0.115, 0.11  # inches


def draw(header: dict[str, Any], results: list[dict[str, Any]], paths: list[Path], benchmark: Any) -> None:
    """Writes the chart of the cases chosen for it, or of all where none of those was measured. `benchmark`: of
    command.py."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "torch_maxpool"  # the same file from the same numbers
    from matplotlib import pyplot

    results = [result for result in results if result["chart"]] or results
    bars, ticks, names, y = [], [], [], 0.0
    for result in results:
        labels = [label for label in benchmark.chart_labels if label in result["seconds"]]
        bars += [(y + i * BAR, label, benchmark.ratio(result, label)) for i, label in enumerate(labels)]
        ticks.append(y + (len(labels) - 1) * BAR / 2)
        names.append(result["shape_name"] + "\n" + result["name"].removeprefix(result["shape_name"] + ", "))
        y += max(len(labels), 3) * BAR + GAP
    left = min(0.5, 0.8 * min(value for _, _, value in bars))
    right = 2.2 * max(value for _, _, value in bars)
    height = y + 1.3
    figure, axes = pyplot.subplots(figsize=(9, height))
    figure.subplots_adjust(left=0.235, right=0.985, top=1 - 0.93 / height, bottom=0.37 / height)
    for place_of_label, (label, text) in enumerate(benchmark.chart_labels.items()):
        mine = [(place, value) for place, other, value in bars if other == label]
        if not mine:
            continue
        places, values = zip(*mine, strict=True)
        widths = [value - left for value in values]
        axes.barh(places, widths, BAR * 0.9, left=left, color=COLORS[place_of_label], label=text)
        for place, value in mine:
            bold = "normal" if place_of_label else "bold"
            axes.text(value * 1.04, place, number(value), va="center_baseline", fontsize=6.5, fontweight=bold)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_ylim(y - GAP / 2, -BAR - GAP / 2)
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_yticks(ticks, names, fontsize=7.5)
    decades = [10**i for i in range(5) if 10**i < right]
    axes.set_xticks(decades, [f"{decade:g}" for decade in decades], fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(top=True, labeltop=True)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    machine = f"{header['cpu']}, {header['capability']}, {header['threads']} threads, PyTorch {header['torch']}"
    figure.text(0.01, 1 - 0.17 / height, benchmark.chart_title, fontsize=9.5, fontweight="bold", va="center")
    figure.text(0.01, 1 - 0.35 / height, machine, fontsize=8, va="center", color="#444444")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        ncols=len(labels),
        loc="center left",
        bbox_to_anchor=(0.003, 1 - 0.53 / height),
        frameon=False,
        fontsize=7.5,
        handlelength=1,
        columnspacing=1.2,
    )
    for path in paths:
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=160, metadata=metadata)
    pyplot.close(figure)
