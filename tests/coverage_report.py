"""Line and branch coverage of csrc (gcov) and of the Python package (coverage.py), printed.

    pip install coverage
    python tests/coverage_report.py [--capability avx2]... [--keep] [tests or options for pytest]...

Builds an instrumented extension in build/coverage, runs the tests on it, once for each --capability (default: the one
PyTorch picks), and tests/cpp/kernels on its kernels of every instruction set. Prints for every file how many of its
lines and branches ran, and the numbers of the lines that did not. Branches of csrc that only exceptions take are left
out, and lines with so many that they must be vectors done lane by lane. A line with ``not covered: <reason>`` in a
comment is not counted, nor the line below such a comment of its own, nor closing braces, to which gcov gives what
exceptions leave behind, nor a line for AVX-512 alone where the processor lacks that. --keep adds to an earlier run.

Processes that tests start count, as long as they end by themselves; of forked ones only the Python lines.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "coverage"
PYTHON_SETTINGS = BUILD / "python.ini"
PYTHON_COUNTS = BUILD / "python.coverage"
EXCUSE = "not covered: "
MOST_BRANCHES = 8  # of a line that is written with branches


def build():
    """The instrumented package; returns the folder that holds it."""
    environment = {**os.environ, "TORCH_MAXPOOL_CXXFLAGS": "--coverage -O0"}
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(BUILD)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return next(BUILD.glob("lib.*"))


def write_python_settings(package):
    """What coverage.py is to do, in processes that tests start too."""
    text = f"""
[run]
branch = true
parallel = true
patch = subprocess, fork, _exit
source_dirs = {package / "torch_maxpool"}
data_file = {PYTHON_COUNTS}

[paths]
package =
    {package / "torch_maxpool"}

[report]
exclude_also = {EXCUSE}
"""
    PYTHON_SETTINGS.write_text(text, encoding="utf-8")


def run_tests(package, capability, options):
    """The tests, in a working folder where the instrumented package is the one that is found."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    if capability:
        environment["ATEN_CPU_CAPABILITY"] = capability
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={PYTHON_SETTINGS}"]
    command += ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    command += options or [str(ROOT / "tests")]
    return subprocess.run(command, cwd=package, env=environment, check=False).returncode


def run_kernels():
    """tests/cpp/kernels on the instrumented objects: every so many cases."""
    program = BUILD / "test_kernels"
    objects = [str(path) for path in BUILD.glob("temp.*/csrc/cpu/kernels_*.o")]
    command = ["c++", "-std=c++20", "-O1", "-w", "-pthread", "-o", str(program), *objects, "--coverage"]
    subprocess.run([*command, str(ROOT / "tests/cpp/kernels/test_kernels.cpp")], cwd=BUILD, check=True)
    return subprocess.run([program, "--step", "5"], cwd=BUILD, check=False).returncode


def print_python_report():
    coverage = [sys.executable, "-m", "coverage"]
    settings = f"--rcfile={PYTHON_SETTINGS}"
    subprocess.run([*coverage, "combine", "--append", "--quiet", settings], cwd=BUILD, check=False)
    subprocess.run([*coverage, "report", "--show-missing", settings], cwd=BUILD, check=True)


def gcov_records():
    """gcov's record of every line of csrc in every object that can run here."""
    cpus = Path("/proc/cpuinfo")
    lacks_avx512 = cpus.exists() and "avx512f" not in cpus.read_text()
    for data in BUILD.glob("temp.*/**/*.gcda"):
        if lacks_avx512 and data.stem.startswith("kernels_avx512"):
            print("kernels for AVX-512 cannot run on this processor: left out")
            continue
        command = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(data)]
        text = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for file in (file for line in text.splitlines() for file in json.loads(line)["files"]):
            path = Path(os.path.normpath(ROOT / file["file"]))
            if path.is_relative_to(ROOT / "csrc"):
                for line in file["lines"]:
                    yield path, line


def excused_lines(text):
    """Numbers of the lines that are not counted."""
    excused = set()
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() in ("}", "};"):
            excused.add(number)
        elif EXCUSE in line:
            excused |= {number, number + 1} if line.strip().startswith("//") else {number}
    return excused


def merge(records):
    """{file: ({line: runs}, {(line, branch): taken})}; instances of templates and instruction sets count as one."""
    files = collections.defaultdict(lambda: (collections.Counter(), collections.Counter()))
    excused = {}
    for path, line in records:
        if path not in excused:
            excused[path] = excused_lines(path.read_text(encoding="utf-8"))
        number = line["line_number"]
        if number in excused[path]:
            continue
        lines, branches = files[path]
        lines[number] += line["count"]
        written = [branch for branch in line["branches"] if not branch["throw"]]
        for index, branch in enumerate(written if len(written) <= MOST_BRANCHES else []):
            branches[number, index] += branch["count"]
    return files


def ranges(numbers):
    """[1, 2, 3, 7] as "1-3, 7"."""
    found = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def share(counter):
    """(what ran, all) of a counter."""
    return sum(count > 0 for count in counter.values()), len(counter)


def print_report(files):
    totals = [0, 0, 0, 0]
    print(f"{'file':36} {'lines':>14} {'branches':>16}  lines that did not run")
    for path, (lines, branches) in sorted(files.items()):
        numbers = [*share(lines), *share(branches)]
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        missing = ranges(number for number, count in lines.items() if count == 0)
        print_row(str(path.relative_to(ROOT)), numbers, missing)
    print_row("all of csrc", totals, "")


def print_row(name, numbers, missing):
    def cell(ran, total):
        return f"{ran}/{total} {100 * ran / max(total, 1):.0f}%"

    print(f"{name:36} {cell(*numbers[:2]):>14} {cell(*numbers[2:]):>16}  {missing}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", action="append", help="a value of ATEN_CPU_CAPABILITY")
    parser.add_argument("--keep", action="store_true", help="add to the counts of an earlier run")
    options, rest = parser.parse_known_args()
    package = build()
    write_python_settings(package)
    if not options.keep:
        for old in [*BUILD.glob("**/*.gcda"), *BUILD.glob("python.coverage*")]:
            old.unlink()
    failed = [run_tests(package, capability, rest) for capability in options.capability or [None]]
    failed.append(run_kernels())
    print_report(merge(gcov_records()))
    print_python_report()
    raise SystemExit(any(failed))


if __name__ == "__main__":
    main()
