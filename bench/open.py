#!/usr/bin/env python3
"""How long the server takes from its start to the line `ready`: on an empty store, and on a filled one after kill -9.

usage: open.py --loadgen L --work DIR --filled DATA_DIR --results FILE [--times 5] -- COMMAND...

COMMAND is completed with --port and --data-dir. The filled store is loaded with creates over 64 connections and killed
in the middle of them, before each of its starts. `DATA_DIR.json` is the state file that `loadgen setup` made.
"""
import argparse, http.client, json, os, signal, statistics, subprocess, sys, tempfile, time, urllib.parse

FLOORS = {"empty": 0.100, "filled": 1.5}


def start(command, data, log):
    """The process, its URL and the seconds until it said so."""
    begun = time.monotonic()
    process = subprocess.Popen([*command, "--port", "0", "--data-dir", data], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=log, text=True, cwd=os.path.dirname(data))
    for line in process.stdout:
        if line.startswith("ready "):
            return process, line.split()[1], time.monotonic() - begun
    sys.exit(f"the server ended with {process.wait()} before it was ready")


def stop(process, how=signal.SIGTERM):
    process.send_signal(how)
    process.wait(30)
    process.stdout.close()


def count(url):
    url = urllib.parse.urlparse(url)
    conn = http.client.HTTPConnection(url.netloc, timeout=120)
    conn.request("GET", url.path + "/classes/Message?count=1&limit=0",
                 headers={"X-Parse-Application-Id": "bench", "X-Parse-Master-Key": "bench-master"})
    return json.loads(conn.getresponse().read()).get("count")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--loadgen", required=True)
    ap.add_argument("--work", required=True)
    ap.add_argument("--filled", required=True)
    ap.add_argument("--results", required=True)
    ap.add_argument("--times", type=int, default=5)
    ap.add_argument("command", nargs="+")
    args = ap.parse_args()
    log = open(f"{args.work}/open.log", "a")
    took = {"empty": [], "filled": []}
    for _ in range(args.times):
        process, _, secs = start(args.command, tempfile.mkdtemp(dir=args.work) + "/data", log)
        took["empty"].append(secs)
        stop(process)

    process, url, secs = start(args.command, args.filled, log)
    print(f"after a clean stop: {secs * 1000:.0f} ms", file=sys.stderr)
    objects = 0
    for _ in range(args.times):
        load = subprocess.Popen([args.loadgen, "--url", url, "--state", args.filled + ".json", "create", "-c", "64", "--secs", "600"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(4)
        stop(process, signal.SIGKILL)
        load.kill()
        load.wait()
        process, url, secs = start(args.command, args.filled, log)
        took["filled"].append(secs)
        print(f"after kill -9: {secs * 1000:.0f} ms", file=sys.stderr)
        objects = count(url) or objects
    stop(process)

    good = True
    print(f"| store | `ready` after, median of {args.times} | all | floor | |\n|---|---|---|---|---|")
    for name, label in (("empty", "empty"), ("filled", f"{objects:,} objects, after kill -9 under load")):
        median = statistics.median(took[name])
        good &= median <= FLOORS[name]
        print(f"| {label} | {median * 1000:.0f} ms | {', '.join(f'{s * 1000:.0f}' for s in took[name])} | {FLOORS[name] * 1000:.0f} ms "
              f"| {'met' if median <= FLOORS[name] else 'MISSED'} |")
    with open(args.results, "a") as out:
        print(json.dumps({"label": "open", "objects": objects, **took}), file=out)
    sys.exit(not good)


if __name__ == "__main__":
    main()
