#!/usr/bin/env python3
"""Keeps what Criterion measured, and compares with it.

    cargo bench -- --quick && python3 benches/criterion.py compare
    cargo bench && python3 benches/criterion.py save

`save` writes what the last runs measured to benches/criterion.json: nanoseconds of an iteration (the middle of
Criterion's estimate), one line for each bench; benches that were not run keep their figures. `compare` prints what was
kept, what was measured, and their ratio. Times of two machines are not comparable, and those of a busy one say little, so
it never fails; what must not get worse is counted in instructions (docs/benchmarks.md).

CRITERION_HOME or CARGO_TARGET_DIR say where Criterion has its results; default: target/criterion.
"""
import json, os, platform, sys

HERE = os.path.dirname(os.path.abspath(__file__))
KEPT = os.path.join(HERE, "criterion.json")
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(os.path.dirname(HERE), "target")
RESULTS = os.environ.get("CRITERION_HOME") or os.path.join(TARGET, "criterion")


def measured():
    """Nanoseconds of an iteration by the bench's full name."""
    found = {}
    for folder, _, files in os.walk(RESULTS):
        # A run that was cut short leaves only some of its files.
        if os.path.basename(folder) != "new" or not {"benchmark.json", "estimates.json"} <= set(files):
            continue
        with open(os.path.join(folder, "benchmark.json")) as f:
            name = json.load(f)["full_id"]
        with open(os.path.join(folder, "estimates.json")) as f:
            estimates = json.load(f)
        # The slope is there where Criterion could vary the number of iterations.
        best = estimates.get("slope") or estimates["mean"]
        found[name] = best["point_estimate"]
    if not found:
        sys.exit(f"no results below {RESULTS}: run cargo bench first")
    return found


def kept():
    if not os.path.exists(KEPT):
        return {"machine": "", "nanoseconds": {}}
    with open(KEPT) as f:
        return json.load(f)


def processor():
    try:
        with open("/proc/cpuinfo") as f:
            model = next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.machine()
    return f"{model}, {os.cpu_count()} processors"


def save():
    figures = {**kept()["nanoseconds"], **measured()}
    rounded = {name: float(f"{figures[name]:.4g}") for name in sorted(figures)}
    with open(KEPT, "w") as f:
        json.dump({"machine": processor(), "nanoseconds": rounded}, f, indent=1)
        f.write("\n")
    print(f"{len(rounded)} figures in {os.path.relpath(KEPT)}")


def readable(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.3g} ns"


def compare():
    before = kept()
    now = measured()
    if before["machine"] != processor():
        print(f"kept on another machine: {before['machine'] or 'none'}; here: {processor()}")
    for name in sorted(now):
        old = before["nanoseconds"].get(name)
        ratio = f"{now[name] / old:.2f}" if old else "new"
        print(f"{ratio:>5}  {readable(old) if old else '':>9} -> {readable(now[name]):>9}  {name}")


if __name__ == "__main__":
    commands = {"save": save, "compare": compare}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]]()
