#!/usr/bin/env python3
"""Creates, gets and the chat query at 64 connections on one MongoDB: by its driver alone, by ours and by parse-server.

usage: mongo.py --driver ARGS --ours ARGS --peer ARGS [--rounds 3] [--secs 5] [--out results.jsonl]

Prints medians of rounds that take turns, and ends with 1 when a floor is missed: ours has at least 80 % of the driver's
throughput, and takes at most an eighth of the peer's processor time for each operation. The driver's loop reads what it
finds as the driver's documents; how ours stands to a loop that does not even look at it, is told beside.
"""
import argparse, json, os, shlex, statistics, subprocess, sys

CONNECTIONS = "64"
FLOOR_OF_DRIVER, FLOOR_OF_CPU = 0.8, 8

arguments = argparse.ArgumentParser()
for name in ("driver", "ours", "peer", "out"):
    arguments.add_argument(f"--{name}", required=name != "out")
arguments.add_argument("--rounds", type=int, default=3)
arguments.add_argument("--secs", default="5")
options = arguments.parse_args()


def run(who, what):
    program, place, more = {
        "driver": (os.environ["DRIVER"], options.driver, []),
        # As if nobody wanted to see what is found.
        "unread": (os.environ["DRIVER"], options.driver, ["--unread"]),
        "ours": (os.environ["LOADGEN"], options.ours, []),
        "peer": (os.environ["LOADGEN"], options.peer, []),
    }[who]
    command = [program, *shlex.split(place), "--secs", options.secs, what, "-c", CONNECTIONS, *more]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if options.out:
        with open(options.out, "a") as out:
            out.write(json.dumps({**result, "label": f"mongo/{who}"}) + "\n")
    if result.get("errors"):
        sys.exit(f"{who} {what}: {result['errors']} errors: {result.get('error_samples')}")
    return result


print("| 64 connections | driver ops/s | unread | ours | of it | of unread | peer | CPU \u00b5s/op: ours | peer | ratio | floors |")
print("|---" * 11 + "|")
missed = False
for what in ("create", "get", "query"):
    results = {who: [] for who in ("driver", "unread", "ours", "peer")}
    for _ in range(options.rounds):
        for who, so_far in results.items():
            so_far.append(run(who, what))
    rate = {who: statistics.median(result["ops_s"] for result in of) for who, of in results.items()}
    cpu = {who: statistics.median(result["cpu_us_per_op"]["server"] for result in results[who]) for who in ("ours", "peer")}
    of_driver, of_cpu = rate["ours"] / rate["driver"], cpu["peer"] / cpu["ours"]
    met = of_driver >= FLOOR_OF_DRIVER and of_cpu >= FLOOR_OF_CPU
    missed |= not met
    print(
        f"| {what} | {rate['driver']:,.0f} | {rate['unread']:,.0f} | {rate['ours']:,.0f} | {of_driver:.0%} "
        f"| {rate['ours'] / rate['unread']:.0%} | {rate['peer']:,.0f} | {cpu['ours']:.0f} "
        f"| {cpu['peer']:.0f} | {of_cpu:.1f} x | {'met' if met else 'MISSED'} |"
    )
sys.exit(missed)
