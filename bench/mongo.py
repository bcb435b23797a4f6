#!/usr/bin/env python3
"""Creates, gets and the chat query at 64 connections on one MongoDB: by its driver alone, by ours and by parse-server.

usage: mongo.py --driver ARGS --ours ARGS --start-peer COMMAND --peer-state FILE [--rounds 7] [--secs 3] [--out results.jsonl]

First the driver's loop and ours take turns with nobody else there. Then COMMAND starts the peer, whose last line says where
it is. Prints medians, of ratios those of the rounds, and ends with 1 when a floor is missed: ours has at least 80 % of the
driver's throughput, and takes at most an eighth of the peer's processor time for each operation. The driver's loop reads
what it finds as the driver's documents; how ours stands to a loop that does not even look at it, is told beside.
"""
import argparse, json, os, shlex, statistics, subprocess, sys

CONNECTIONS = "64"
FLOOR_OF_DRIVER, FLOOR_OF_CPU = 0.8, 8
# Reads first: they are of what was there.
OPERATIONS = ("get", "query", "create")
# The peer's processor time is farther from the floor than its rounds from each other.
ROUNDS_OF_PEER = 3

arguments = argparse.ArgumentParser()
for name in ("driver", "ours", "start-peer", "peer-state", "out"):
    arguments.add_argument(f"--{name}", required=name != "out")
arguments.add_argument("--rounds", type=int, default=7)
arguments.add_argument("--secs", default="3")
options = arguments.parse_args()
places = {"driver": options.driver, "unread": options.driver, "ours": options.ours}


def run(who, *what):
    program = os.environ["DRIVER" if who in ("driver", "unread") else "LOADGEN"]
    # As if nobody wanted to see what is found.
    more = ["--unread"] if who == "unread" else []
    command = [program, *shlex.split(places[who]), *what, *more]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    if options.out:
        with open(options.out, "a") as out:
            out.write(json.dumps({**result, "label": f"mongo/{who}"}) + "\n")
    if result.get("errors"):
        sys.exit(f"{who} {what}: {result['errors']} errors: {result.get('error_samples')}")
    return result


def measure(turns, rounds):
    """By operation and who: what each round said."""
    results = {what: {who: [] for who in turns} for what in OPERATIONS}
    for what in OPERATIONS:
        for number in range(rounds):
            # There and back again: nobody always comes first.
            for who in turns[:: 1 if number % 2 == 0 else -1]:
                results[what][who].append(run(who, "--secs", options.secs, what, "-c", CONNECTIONS))
    return results


def rate(results):
    return statistics.median(result["ops_s"] for result in results)


def cpu(results):
    return statistics.median(result["cpu_us_per_op"]["server"] for result in results)


def ratios(one, other):
    return sorted(a["ops_s"] / b["ops_s"] for a, b in zip(one, other))


alone = measure(("driver", "ours", "unread"), options.rounds)
started = subprocess.run(shlex.split(options.start_peer), check=True, stdout=subprocess.PIPE, text=True).stdout
places["peer"] = f"{started.splitlines()[-1]} --state {options.peer_state}"
run("peer", "setup", "--rows", "20000")
beside = measure(("peer",), ROUNDS_OF_PEER)

print("| 64 connections | driver ops/s | ours | of it | least, most | unread | of it | peer | CPU µs/op: ours | peer | ratio | floors |")
print("|---" * 12 + "|")
missed = False
for what in OPERATIONS:
    driver, ours, unread = alone[what].values()
    peer = beside[what]["peer"]
    to_driver, to_unread = ratios(ours, driver), ratios(ours, unread)
    of_driver, of_cpu = statistics.median(to_driver), cpu(peer) / cpu(ours)
    met = of_driver >= FLOOR_OF_DRIVER and of_cpu >= FLOOR_OF_CPU
    missed |= not met
    print(
        f"| {what} | {rate(driver):,.0f} | {rate(ours):,.0f} | {of_driver:.0%} | {to_driver[0]:.0%}, {to_driver[-1]:.0%} "
        f"| {rate(unread):,.0f} | {statistics.median(to_unread):.0%} | {rate(peer):,.0f} | {cpu(ours):.0f} | {cpu(peer):.0f} "
        f"| {of_cpu:.1f} x | {'met' if met else 'MISSED'} |"
    )
sys.exit(missed)
