"""The benchmark's commands run and report what they should; figures themselves are not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common import once

COMMANDS = Path(__file__).parent / "benchmarks"

# They check nothing that depends on the instruction set and is not checked elsewhere.
pytestmark = once


def run(command, *options):
    """Its standard output."""
    pytest.importorskip("tqdm")
    root = str(COMMANDS.parent.parent)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))  # which may name another build
    environment = {**os.environ, "PYTHONPATH": path}
    words = [sys.executable, str(COMMANDS / f"{command}.py"), *map(str, options)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("command", ["forward", "backward"])
def test_layers(command, tmp_path):
    file = tmp_path / "results.json"
    options = ["--shape", "tiny", "--shape", "random", "--random", 2, "--seed", 3, "--dtype", "float32"]
    shown = run(command, *options, "--seconds", 0.05, "--passes", 2, "--peer", "eager", "--json", file)
    content = json.loads(file.read_text())
    names = [result["shape_name"] for result in content["results"]]
    assert "tiny, latency" in names
    assert len({result["name"] for result in content["results"]}) == len(names)
    mine = {"values", "offsets", "train"} if command == "forward" else {"operator", "ours", "ours layer", "copy layer"}
    for result in content["results"]:
        assert mine | {"copy"} <= result["seconds"].keys()
        assert result["name"] in shown
        assert result["skipped"] or "eager" in result["seconds"]
        assert min(result["seconds"].values()) > 0
    # The report needs the file alone.
    assert shown.partition("\nTime / copy")[2] == run(command, "--load", file).partition("\nTime / copy")[2]


def test_backward_reports_what_is_kept(tmp_path):
    file = tmp_path / "results.json"
    options = ["--shape", "tiny", "--shape", "text cnn", "--seconds", 0.01, "--peer", "eager"]
    run("backward", *options, "--json", file)
    kept = {result["shape_name"]: result["kept"] for result in json.loads(file.read_text())["results"]}
    text = 32 * 128 * 512
    assert kept == {
        "tiny, latency": {"ours": 8 * 4 * 4, "eager": 4 * 8 * 8 * 8 + 8 * 8 * 4 * 4},
        "text cnn": {"ours": text, "eager": 4 * text + 8 * text},
    }


def test_cases_and_filters_are_listed():
    shown = run("backward", "--list", "--layout", "channels_last", "--shape", "vgg16 pool1, batch 8")
    listed = shown.splitlines()[3:]
    assert listed == [f"vgg16 pool1, batch 8, channels_last, {dtype}" for dtype in ("float32", "bfloat16")]


def test_networks(tmp_path):
    file = tmp_path / "results.json"
    shown = run("networks", "--scale", 0.05, "--seconds", 0.01, "--json", file)
    results = json.loads(file.read_text())["results"]
    assert len(results) == 6
    for result in results:
        assert result["kept"]["ours"] < result["kept"]["torch"]
        assert result["kinds"].keys() == {"inference", "training"}
        for figures in result["kinds"].values():
            assert 0 < figures["share"] < 1
            assert figures["peak"]["ours"] <= 1.01 * figures["peak"]["torch"]
            assert figures["seconds"].keys() == {"ours", "torch"}
        assert shown.count(result["name"]) == 2
    assert shown[shown.index("| network") :] in run("networks", "--load", file)


def test_compiled(tmp_path):
    file = tmp_path / "times.json"
    shown = run("compiled", "--shape", "tiny", "--block", "--seconds", 0.01, "--json", file)
    times = json.loads(file.read_text())
    assert list(times) == ["tiny, latency, float32, forward", "tiny, latency, float32, step"]
    for row in times.values():
        assert row.keys() == {"F eager", "ours eager", "F compiled", "ours compiled"}
        assert f"{row['F compiled'] / row['ours compiled']:.2f}" in shown
