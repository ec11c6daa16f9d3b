#!/usr/bin/env python3
"""Keeps what Criterion measured, and compares with it.

    cargo bench -- --quick && python3 benches/criterion.py compare
    cargo bench && python3 benches/criterion.py save
    cargo bench && python3 benches/criterion.py check [PERCENT]

`save` writes what the last runs measured to benches/criterion.json: nanoseconds of an iteration (the middle of
Criterion's estimate), one line for each bench; benches that were not run keep their figures.

`compare` prints what was kept, what was measured, and by how much a bench changed more than the others did: its ratio
over the median of all ratios. What the machine does to all benches of a run is no part of that. `check` does the same
and fails when one is past 1 + PERCENT / 100 (default 30), if enough benches were run and the processor is of the kind that
the figures were kept on: another one is better at one thing than at the other. A busy machine slows benches that use
several cores or much memory more than others, so check on a quiet one; CI counts instructions instead
(docs/benchmarks.md).

CRITERION_HOME or CARGO_TARGET_DIR say where Criterion has its results; default: target/criterion.
"""
import json, os, platform, statistics, sys

HERE = os.path.dirname(os.path.abspath(__file__))
KEPT = os.path.join(HERE, "criterion.json")
TARGET = os.environ.get("CARGO_TARGET_DIR") or os.path.join(os.path.dirname(HERE), "target")
RESULTS = os.environ.get("CRITERION_HOME") or os.path.join(TARGET, "criterion")
# Fewer don't say what the machine does.
BENCHES_MIN = 5


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


def changes():
    """By the name of each bench that was kept and measured: nanoseconds then and now, and its change beside the others."""
    before, now = kept()["nanoseconds"], measured()
    ratios = {name: now[name] / before[name] for name in now if name in before}
    usual = statistics.median(ratios.values()) if ratios else 1
    return {name: (before[name], now[name], ratios[name] / usual) for name in sorted(ratios)}


def compare():
    machine = kept()["machine"]
    if machine != processor():
        print(f"kept on another machine: {machine or 'none'}; here: {processor()}")
    found = changes()
    for name, (old, new, change) in found.items():
        print(f"{change:5.2f}  {readable(old):>9} -> {readable(new):>9}  {name}")
    for name, new in sorted(measured().items()):
        if name not in found:
            print(f"{'new':>5}  {'':>9} -> {readable(new):>9}  {name}")
    return found


def check(percent="30"):
    if not percent.isdecimal():
        sys.exit(__doc__)
    most = 1 + int(percent) / 100
    found = compare()
    if kept()["machine"] != processor():
        sys.exit("not judged: the figures are of another kind of processor")
    if len(found) < BENCHES_MIN:
        sys.exit(f"not judged: {len(found)} benches were kept and measured, {BENCHES_MIN} make a median")
    worse = [name for name, (_, _, change) in found.items() if change > most]
    if worse:
        sys.exit(f"worse beside the others by more than {percent} %: " + "; ".join(worse))


if __name__ == "__main__":
    commands = {"save": save, "compare": compare, "check": check}
    command, *arguments = sys.argv[1:] or [""]
    if command not in commands or len(arguments) > (command == "check"):
        sys.exit(__doc__)
    commands[command](*arguments)
