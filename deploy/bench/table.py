"""Training steps of ours and of PyTorch, in turn, cell by cell: the table of deploy/bench-pytorch, which starts this."""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MODEL = {"layers": 6, "heads": 8, "width": 512, "mlp": 1024, "features": 256, "vocab": 256}
BATCH_OF_LENGTH = {1024: 4, 4096: 1, 16384: 1}
NAMES = {"favor": "favor softmax-positive", "softmax": "exact softmax", "identity": "identity"}  # performer-bench's
VECTORS = ("favor-softmax-causal", "favor-softmax-bidirectional", "softmax-causal", "identity")
WARM_ENOUGH_MS = 4000  # a first step that takes longer counts
CAP_MS = 60000  # PyTorch compiled is not tried where an eager step takes longer
ROUNDS_MAX = 7
MEMORY_SHARE = 0.75  # of what is free, for PyTorch; the rest is for ours
TOLERANCE = {"attention": 2e-5, "model": 1e-4}


class Failed(Exception):
    pass


class Lines:
    """A program that answers a line with a line."""

    def __init__(self, arguments, **options):
        self.process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)

    def read(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        said = self.process.stderr.read().strip().splitlines()[:1] if self.process.stderr else []
        raise Failed(said[0] if said else f"ended with {code}")

    def ask(self, request):
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it said of its end is read
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def limit_memory():
    with open("/proc/meminfo") as file:
        free = next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    most = int(free * 1024 * MEMORY_SHARE)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


class PyTorch:
    """The peer; started again where a cell has killed it."""

    def __init__(self, threads):
        self.threads, self.lines = threads, None

    def ask(self, do, **arguments):
        if not self.lines:
            self.lines = Lines([sys.executable, f"{HERE}/peer.py"], preexec_fn=limit_memory)
            self.ask("about", threads=self.threads)
        try:
            answer = self.lines.ask(json.dumps({"do": do, **arguments}))
        except Failed:
            self.lines = None
            raise
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer


def ours_open(cell, threads, bin_directory):
    sizes = itertools.chain.from_iterable((f"--{name}", str(value)) for name, value in MODEL.items())
    arguments = [f"{bin_directory}/performer-bench", "--paced", *sizes, "--threads", str(threads),
                 "--length", str(cell["length"]), "--batch", str(cell["batch"]),
                 "--attention", NAMES[cell["attention"]], "--causal" if cell["causal"] else "--bidirectional"]
    if cell["precision"] != "fp32":
        arguments += ["--precision", cell["precision"]]
    lines = Lines(arguments, stderr=subprocess.PIPE)
    return lines, lines.read()


# ---- cells ----


def cell_name(cell):
    direction = "causal" if cell["causal"] else "bidirectional"
    return f"{cell['attention']}-{direction}-{cell['precision']}-{cell['length']}"


def cells_of(patterns):
    """A pattern is some of the words of a cell's name: favor-causal-fp32 is favor, causal and fp32 at each length."""
    cells = []
    for length, precision, causal, attention in itertools.product(
            BATCH_OF_LENGTH, ("fp32", "bf16"), (True, False), NAMES):
        cell = {"attention": attention, "causal": causal, "precision": precision, "length": length,
                "batch": BATCH_OF_LENGTH[length]}
        words = set(cell_name(cell).split("-"))
        if not patterns or any(set(pattern.split("-")) <= words for pattern in patterns):
            cells.append(cell)
    return cells


def weight_of(cell):
    """About how long a step of it takes beside others."""
    quadratic = cell["length"] / 16384 * 6 if cell["attention"] == "softmax" else 0
    return cell["length"] * cell["batch"] / 4096 * (1 + quadratic) * (0.6 if cell["precision"] == "bf16" else 1)


def run_rounds(contenders, until):
    """contenders: name -> function that takes a step and gives its ms. Steps in turn; at least one each, and the first
    only where it took long. name -> [ms of each round], and why a name has none."""
    rounds, failed, first = {name: [] for name in contenders}, {}, {}
    while len(failed) < len(contenders):
        for name, step in contenders.items():
            if name in failed:
                continue
            if name == "compiled" and name not in first and first.get("eager", 0) > CAP_MS:
                failed[name] = f"an eager step takes {first['eager'] / 1e3:.0f} s"
                continue
            try:
                ms = step()
            except Failed as failure:
                failed[name] = str(failure)
                continue
            if name not in first:
                first[name] = ms
                if name == "compiled" or ms < WARM_ENOUGH_MS:
                    continue
            rounds[name].append(ms)
        alive = [rounds[name] for name in contenders if name not in failed]
        least = min(map(len, alive), default=0)
        if least >= ROUNDS_MAX or (least >= 1 and time.monotonic() > until):
            break
    return {name: times for name, times in rounds.items() if times and name not in failed}, failed


def run_cell(cell, pytorch, arguments, until):
    row = {**cell, "failed": {}}
    contenders, peaks, ours, about = {}, [], None, None

    def step_ours():
        answer = ours.ask("")
        peaks.append(answer["peak_gflops"])
        return answer["step_ms"][NAMES[cell["attention"]]]

    try:
        ours, about = ours_open(cell, arguments.threads, arguments.bin)
        contenders["ours"] = step_ours
    except Failed as failure:
        row["failed"]["ours"] = str(failure)
    try:
        row["form"] = pytorch.ask("open", **MODEL, **cell)
        for mode in ("eager", "compiled"):
            contenders[mode] = lambda mode=mode: pytorch.ask("step", mode=mode)["ms"]
    except Failed as failure:
        row["failed"]["eager"] = row["failed"]["compiled"] = str(failure)

    rounds, failed = run_rounds(contenders, until)
    if ours:
        ours.close()
    row["failed"] |= failed
    tokens = cell["length"] * cell["batch"]
    row |= {"rounds": min(map(len, rounds.values()), default=0),
            "tokens_per_second": {name: 1e3 * tokens / statistics.median(times) for name, times in rounds.items()}}
    speeds = row["tokens_per_second"]
    theirs = max((speeds[mode] for mode in ("eager", "compiled") if mode in speeds), default=None)
    if "ours" in speeds and theirs:
        row["ratio"] = speeds["ours"] / theirs
    if about:
        row["peak_gflops"] = statistics.median(peaks) if peaks else None
        row["flops"] = about["flops"][NAMES[cell["attention"]]]
        row["peak_share"] = {name: 1e-9 * row["flops"] * speed / tokens / row["peak_gflops"]
                             for name, speed in speeds.items()}
    return row


# ---- is it the same thing ----


def check(pytorch, arguments):
    """What differs is not timed. name -> error"""
    errors = {}
    with tempfile.TemporaryDirectory() as directory:
        case, out = f"{directory}/case.safetensors", f"{directory}/out.safetensors"
        for attention, causal in itertools.product(("favor", "softmax"), ("true", "false")):
            pytorch.ask("make_case", path=case, attention=attention, causal=causal)
            subprocess.run([f"{arguments.bin}/performer-attend", case, "--out", out], check=True)
            name = f"{attention} {'causal' if causal == 'true' else 'bidirectional'}"
            errors[name] = (pytorch.ask("check_case", path=case, out=out)["error"], TOLERANCE["attention"])
    for vector in VECTORS:
        error = pytorch.ask("check_vector", directory=f"{ROOT}/tests/vectors/model/{vector}")["error"]
        errors[f"model {vector}"] = (error, TOLERANCE["model"])
    return errors


# ---- output ----


def machine():
    with open("/proc/cpuinfo") as file:
        return next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown CPU")


def print_head(about, errors, arguments):
    print(f"{machine()}, {arguments.threads} threads; PyTorch {about['version']} ({about['capability']}, "
          f"{about['threads']} threads), its products "
          + ", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in about["product_gflops"].items()))
    print("model: " + ", ".join(f"{name} {value}" for name, value in MODEL.items()))
    print("PyTorch against performer-attend (out, dq, dk, dv; all chunks) and the model vectors (losses, norms):")
    for name, (error, tolerance) in errors.items():
        print(f"  {name:<36} error {error:.1e}, may be {tolerance:.0e}")
    print("tokens/s by the median step; ratio: ours / the better of PyTorch's; of peak: FLOPs of the step (nothing\n"
          "recomputed counts) over the product peak of the same rounds and precision.\n")
    print(f"{'attention':<10}{'direction':<14}{'type':<6}{'length':>6}{'batch':>6}{'ours':>9}{'eager':>9}"
          f"{'compiled':>10}{'ratio':>7}{'of peak':>9}{'theirs':>8}{'peak':>7}{'rounds':>8}  PyTorch's form", flush=True)


def print_row(row):
    def figure(value, width, form):
        return f"{format(value, form) if value is not None else '-':>{width}}"

    speeds, shares = row["tokens_per_second"], row.get("peak_share", {})
    theirs = max((shares[mode] for mode in ("eager", "compiled") if mode in shares), default=None)
    print(f"{row['attention']:<10}{'causal' if row['causal'] else 'bidirectional':<14}{row['precision']:<6}"
          f"{row['length']:>6}{row['batch']:>6}"
          + figure(speeds.get("ours"), 9, ".0f") + figure(speeds.get("eager"), 9, ".0f")
          + figure(speeds.get("compiled"), 10, ".0f") + figure(row.get("ratio"), 7, ".2f")
          + figure(shares.get("ours"), 9, ".1%") + figure(theirs, 8, ".1%")
          + figure(row.get("peak_gflops"), 7, ".0f") + f"{row['rounds']:>8}  "
          + " ".join(f"{key} {value}" for key, value in row.get("form", {}).items()))
    for name, why in row["failed"].items():
        print(f"    {name}: {why}")
    sys.stdout.flush()


def arguments_of():
    parser = argparse.ArgumentParser(prog="deploy/bench-pytorch", add_help=False)
    parser.add_argument("--cells", default="")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--bin", required=True)
    arguments = parser.parse_args()
    arguments.cells = cells_of([pattern for pattern in arguments.cells.split(",") if pattern])
    if not arguments.cells:
        parser.error("--cells names none; a cell is favor|softmax|identity-causal|bidirectional-fp32|bf16-1024|4096|16384")
    return arguments


def main():
    arguments = arguments_of()
    end = time.monotonic() + 60 * arguments.minutes
    pytorch = PyTorch(arguments.threads)
    about = pytorch.ask("about", threads=arguments.threads)
    errors = check(pytorch, arguments)
    if not arguments.json:
        print_head(about, errors, arguments)
    for name, (error, tolerance) in errors.items():
        if not error <= tolerance:
            sys.exit(f"bench-pytorch: {name}: PyTorch computes something else (error {error:.1e}); nothing is timed")

    rows = []
    for i, cell in enumerate(arguments.cells):
        now = time.monotonic()
        share = weight_of(cell) / sum(map(weight_of, arguments.cells[i:]))
        if now < end:
            row = run_cell(cell, pytorch, arguments, now + (end - now) * share)
        else:
            row = {**cell, "rounds": 0, "tokens_per_second": {}, "failed": {"not run": "the time was over"}}
        rows.append(row)
        if not arguments.json:
            print_row(row)
    if arguments.json:
        print(json.dumps({"machine": machine(), "threads": arguments.threads, "pytorch": about, "model": MODEL,
                          "errors": {name: error for name, (error, _) in errors.items()}, "cells": rows}))


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"bench-pytorch: PyTorch: {failure}")
