"""The benchmark's table, and which cases miss what."""

from __future__ import annotations

from typing import Any

PEER_COLUMNS = ("eager", "compile", "mkldnn", "onnxruntime", "jax", "opencv")
TRAIN_COLUMNS = ("eager train", "compile train")
MARGIN = 1.5  # how much faster than a peer that is slower than MARGIN copies; also other dtypes against float32
LATENCY = (("values", "eager", 1.0), ("train", "eager train", 1.25))  # most time of ours by the peer's, where tiny

Result = dict[str, Any]


def ratio(result: Result, label: str) -> float | None:
    """Time by that of the copy of as many bytes: input and output, and offsets where the contender writes them."""
    seconds = result["seconds"]
    copy = "copy with offsets" if label in ("offsets", "train") else "copy"
    return seconds[label] / seconds[copy] if label in seconds else None


def speedup(result: Result, peer: str) -> float | None:
    """How many times ours is faster than the peer at the same work."""
    seconds = result["seconds"]
    mine = seconds.get("train" if peer.endswith(" train") else "values")
    return seconds[peer] / mine if peer in seconds and mine else None


def targets(result: Result, results: list[Result]) -> tuple[float, float] | None:
    """The case's figures; for another dtype of a case with figures, MARGIN times what float32 reached here."""
    if result["target"]:
        return tuple(result["target"])
    for other in results:
        same = all(result[key] == other[key] for key in ("shape_name", "layout"))
        if same and other["dtype"] == "float32" and other["target"]:
            return MARGIN * ratio(other, "values"), MARGIN * ratio(other, "offsets")
    return None


def columns(results: list[Result]) -> list[str]:
    return [label for label in PEER_COLUMNS + TRAIN_COLUMNS if any(label in r["seconds"] for r in results)]


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def row(result: Result, results: list[Result], peers: list[str]) -> list[str]:
    goals = targets(result, results) or (None, None)
    cells = [result["name"]]
    for label, goal in zip(("values", "offsets"), goals, strict=True):
        value = ratio(result, label)
        aim = "" if goal is None else f" ({goal:.3g})" if value <= goal else f" ({goal:.3g}) !"
        cells.append(number(value) + aim)
    for peer in peers:
        faster = speedup(result, peer)
        cells.append("" if faster is None else f"{number(ratio(result, peer))} ({number(faster)}x)")
    return cells


def line(result: Result, results: list[Result], names: list[str]) -> str:
    """The row as it is printed while others are measured."""
    name, values, offsets, *others = row(result, results, names)
    timed = "  ".join(f"{label} {cell}" for label, cell in zip(names, others, strict=True))
    return f"{name}: values {values}  offsets {offsets}  {timed}"


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is the heading."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def sections(titled: list[tuple[str, list[str]]]) -> str:
    """Titles with the lines under each, or "none"."""
    parts = [f"{title} ({len(lines)}):" if lines else f"{title}: none" for title, lines in titled]
    return "\n\n".join("\n".join([part, *lines]) for part, (_, lines) in zip(parts, titled, strict=True))


def table(results: list[Result]) -> str:
    """Markdown: time / copy; in parentheses what to reach, and for a peer how many times ours is faster."""
    peers = columns(results)
    return markdown([["case", "values", "offsets", *peers], *(row(result, results, peers) for result in results)])


def missed_targets(results: list[Result]) -> list[str]:
    lines = []
    for result in results:
        for label, goal in zip(("values", "offsets"), targets(result, results) or (), strict=False):
            value = ratio(result, label)
            if value > goal:
                lines.append(f"{result['name']}: {label} {value:.2f} x copy, {goal:.2f} to reach")
    return lines


def lost_races(results: list[Result]) -> tuple[list[str], list[str]]:
    """Cases slower than a peer; cases less than MARGIN times faster than a peer slower than MARGIN copies."""
    slower, close = [], []
    for result in results:
        seconds, name = result["seconds"], result["name"]
        if result["shape_name"].startswith("tiny"):
            for mine, peer, most in LATENCY:
                if peer in seconds and seconds[mine] > most * seconds[peer]:
                    times = f"{seconds[mine] * 1e6:.1f} us, {peer} {seconds[peer] * 1e6:.1f} us"
                    slower.append(f"{name}: {mine} {times}, {most:g} times that to reach")
            continue
        for peer in columns([result]):
            faster, peer_ratio = speedup(result, peer), ratio(result, peer)
            line = f"{name}: {peer} takes {peer_ratio:.2f} x copy, {faster:.2f} times ours"
            if faster < 1:
                slower.append(line)
            elif faster < MARGIN < peer_ratio and not result["shape_name"].startswith("random"):
                close.append(line)
    return slower, close


def skips(results: list[Result]) -> list[str]:
    """Why peers were left out, and of how many cases."""
    counts: dict[tuple[str, str], int] = {}
    for result in results:
        for reason in result["skipped"].items():
            counts[reason] = counts.get(reason, 0) + 1
    return [f"{peer}: {reason}: {count} case{'s'[: count > 1]}" for (peer, reason), count in sorted(counts.items())]


def summary(results: list[Result]) -> str:
    slower, close = lost_races(results)
    close_title = f"Less than {MARGIN} times faster than a peer that takes more than {MARGIN} copies"
    return sections(
        [
            ("Left out", skips(results)),
            ("Figures missed", missed_targets(results)),
            ("Slower than a peer", slower),
            (close_title, close),
        ]
    )


def heading(header: dict[str, Any]) -> str:
    lines = [
        f"{header['cpu']}, capability {header['capability']}, {header['threads']} threads, torch {header['torch']}",
        *(f"{peer}: {version}" for peer, version in header["peers"].items()),
    ]
    return "\n".join(lines)
