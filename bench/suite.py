#!/usr/bin/env python3
"""Runs the same loadgen scenarios against several servers, interleaved, and prints medians side by side.

usage: suite.py --targets targets.json [--scenarios floors|quick|full|REGEX] [--rounds 3] [--secs 5] [--out results.jsonl]

targets.json: {"peer": "--url http://127.0.0.1:21337/parse --watch server=123 --watch postgres=456 --state peer.json",
               "ours": "--url http://127.0.0.1:1337/parse --watch server=789 --state ours.json"}
Each target's state file must have been made by `loadgen setup`. With the targets `peer` and `ours` it also prints the
ratios against the floors, and ends with 1 when one is missed or an answer, an event or the order was wrong.
"""
import argparse, http.client, json, os, re, shlex, statistics, subprocess, sys, time, urllib.parse
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
LOADGEN = os.environ.get("LOADGEN", f"{HERE}/loadgen/target/release/loadgen")


@dataclass
class Scenario:
    args: str
    quick: bool = False
    floor: float = 0  # ours / peer in `rate`
    rate: str = "ops_s"
    ms: str = "ms"
    unit: str = "op"  # of the CPU microseconds


def live(args, rate, unit, **more):
    return Scenario(args, rate=rate, ms="event_ms", unit=unit, **more)


SCENARIOS = {
    "create c1": Scenario("create -c 1", quick=True),
    "create c32": Scenario("create -c 32"),
    "create c64": Scenario("create -c 64", quick=True, floor=15),
    "get c32": Scenario("get -c 32", quick=True, floor=20),
    "get c64": Scenario("get -c 64"),
    "query c32": Scenario("query -c 32", quick=True, floor=15),
    "query c64": Scenario("query -c 64"),
    "update c32": Scenario("update -c 32", quick=True),
    "batch50 c4": Scenario("batch -c 4", quick=True, rate="objects_s"),
    "login c8": Scenario("login -c 8"),
    "mixed c32": Scenario("mixed -c 32"),
    "fanout k10": live("fanout -k 10 -p 4", "events_s", "event"),
    "fanout k100": live("fanout -k 100 -p 4", "events_s", "event", quick=True),
    "fanout k1000": live("fanout -k 1000 -p 4", "events_s", "event", quick=True, floor=8),
    "fanout k1000 5/s": live("fanout -k 1000 -p 1 --rate 5", "events_s", "event"),
    "fanout k100 acl": live("fanout -k 100 -p 4 --acl users --sub-sessions", "events_s", "event"),
    **{f"select eq {m}": live(f"selectivity -m {m} -w 100 -p 32", "writes_s", "write", quick=m in (1, 1000), floor=100 * (m == 1000))
       for m in (1, 100, 1000, 10000, 50000)},
    **{f"select {p} 1000": live(f"selectivity -m 1000 -w 100 -p 32 --predicate {p}", "writes_s", "write")
       for p in ("eq-gt", "range", "gt", "in", "regex", "contains", "contains-ptr")},
    "idle 2000": Scenario("idle -n 2000 --secs 12", rate="opens_s"),
}
METRICS = [
    "ops_s", "objects_s", "opens_s", "ms.p50", "ms.p95", "ms.p99", "ms.p999", "ms.max", "body_bytes_avg", "writes_s",
    "write_ms.p50", "write_ms.p99", "events_s", "event_ms.p50", "event_ms.p99", "event_ms.p999", "event_ms.max", "behind_s",
    "kib_per_conn", "subscribe_s", "cpu_us_per_op.server", "cpu_us_per_op.postgres", "cpu_us_per_op.loadgen",
    "cpu_us_per_write.server", "cpu_us_per_write.loadgen", "cpu_us_per_event.server", "cpu_us_per_event.loadgen",
    "cpu.server", "cpu.postgres", "cpu.loadgen", "cpu.machine", "cpu.steal", "rss_mib.server",
]
MUST_BE_ZERO = ["errors", "lost", "duplicates", "misdelivered", "reordered", "closed", "write_errors", "frame_errors"]


def dig(obj, path):
    for key in path.split("."):
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj


def wrong(result):
    return {k: result[k] for k in [*MUST_BE_ZERO, "failed"] if result.get(k)}


def median(results, metric):
    values = [v for r in results if (v := dig(r, metric)) is not None]
    return statistics.median(values) if values else None


# ---------------------------------------------------------------- the same work on both

TEXTS = [  # sent, stored by both servers (None: refused with 142)
    ("plain words", "plain words"), ("", None), (" \t\n ", None), ("1 < 2 && 3 > 2", "1  2"), ("a < b", "a &lt; b"), ("x > y & z", "x &gt; y &amp; z"),
    ("<b>bold</b> and <i class='a'>it</i>", "bold and it"), ("a<script>alert(1)</script>b", "ab"),
    ("a<SCRIPT src=x>1</sCript>b<style>p{}</STYLE>c", "abc"), ("<scripty>1</scripty>", "1"), ("<script>a</style>b", "ab"),
    ("<script>one</script><script>two</script>!", "!"), ("<style>x</style", "x&lt;/style"), ("<<b>>", "&gt;"), ("é<b>ü</b>😀 & ß", "éü😀 &amp; ß"),
    ("<script", "&lt;script"), ("<b><script>x</script></b>tail", "tail"), ("<style></style>", ""),
]


def call(args, method, path, body=None):
    opts = shlex.split(args)
    url = urllib.parse.urlparse(opts[opts.index("--url") + 1])
    conn = http.client.HTTPConnection(url.netloc, timeout=30)
    headers = {"X-Parse-Application-Id": "bench", "X-Parse-Master-Key": "bench-master", "Content-Type": "application/json"}
    conn.request(method, url.path + path, json.dumps(body) if body is not None else None, headers)
    reply = json.loads(conn.getresponse().read())
    conn.close()
    return reply


def check_hooks(targets):
    """The hooks refuse and store the same on every target, on creates and on updates."""
    bad = 0
    for name, args in targets.items():
        for sent, stored in TEXTS:
            reply = call(args, "POST", "/classes/Message", {"text": sent})
            if stored is None:
                got = None if reply.get("code") == 142 else reply
            else:
                path = f"/classes/Message/{reply.get('objectId')}"
                got = call(args, "GET", path).get("text", reply)
                edited = call(args, "PUT", path, {"text": sent + "."})
                again = call(args, "GET", path).get("text", edited)
                if again != got + "." and sent not in ("<script", "<style>x</style"):
                    got = f"{got!r} and edited {again!r}"
                call(args, "DELETE", path)
            if got != stored:
                bad += 1
                print(f"hook of {name}: {sent!r} gave {got!r}, not {stored!r}", file=sys.stderr)
    if bad == 0:
        print(f"hooks agree on {len(TEXTS)} texts", file=sys.stderr)
    return bad == 0


# ---------------------------------------------------------------- runs and tables

def run_once(scenario, extra, secs, label):
    secs = [] if "--secs" in scenario.args else ["--secs", str(secs)]
    cmd = [LOADGEN, *shlex.split(scenario.args), *secs, *shlex.split(extra), "--label", label]
    try:
        run = subprocess.run(cmd, capture_output=True, text=True, timeout=600)
        result = json.loads(run.stdout.strip() or json.dumps({"failed": run.stderr.strip()[-300:]}))
    except subprocess.TimeoutExpired:
        result = {"failed": "no end after 600 s"}
    return {"label": label, **result}


def number(x):
    return "" if x is None else f"{x:,.0f}" if x >= 100 else f"{x:,.3g}"


def print_floors(results):
    """One line per scenario that has a floor; whether all are met."""
    print("| scenario | what | peer | ours | ratio | floor | | ours ms p50 / p99 / p99.9 / worst | CPU µs each: peer + database | ours | loadgen |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    good = True
    for name, by_target in results.items():
        s = SCENARIOS[name]
        if not s.floor:
            continue
        peer, ours = by_target.get("peer", []), by_target.get("ours", [])
        a, b = median(peer, s.rate), median(ours, s.rate)
        ratio = b / a if a and b else 0
        faults = {k: v for r in peer + ours for k, v in wrong(r).items()}
        sizes = [median(rs, "body_bytes_avg") for rs in (peer, ours)]
        if all(sizes) and not 0.8 < sizes[1] / sizes[0] < 1.25:
            faults["body_bytes_avg"] = sizes
        met = ratio >= s.floor and not faults
        good &= met
        ms = " / ".join(number(median(ours, f"{s.ms}.{q}")) for q in ("p50", "p99", "p999"))
        worst = max((v for r in ours if (v := dig(r, f"{s.ms}.max")) is not None), default=None)
        cpu = lambda rs, who: number(median(rs, f"cpu_us_per_{s.unit}.{who}"))
        print(f"| {name} | {s.rate.replace('_s', '/s')} | {number(a)} | {number(b)} | {ratio:.1f}× | ≥ {s.floor}× | {'met' if met else 'MISSED'}"
              f"{' ' + json.dumps(faults) if faults else ''} | {ms} / {number(worst)} | {cpu(peer, 'server')} + {cpu(peer, 'postgres')} "
              f"| {cpu(ours, 'server')} | {cpu(ours, 'loadgen')} |")
    return good


def print_all(results, names):
    print("| scenario | metric | " + " | ".join(names) + " |\n|---|---|" + "---|" * len(names))
    for name, by_target in results.items():
        for metric in METRICS + MUST_BE_ZERO:
            rows = [by_target.get(target, []) for target in names]
            if metric in MUST_BE_ZERO:
                values = [max((r.get(metric, 0) for r in rs), default=0) for rs in rows]
                if not any(values):
                    continue
            else:
                values = [median(rs, metric) for rs in rows]
            if any(v is not None for v in values):
                print(f"| {name} | {metric} | " + " | ".join(number(v) for v in values) + " |")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--targets", required=True)
    ap.add_argument("--scenarios", default="floors")
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--secs", type=float, default=5)
    ap.add_argument("--pause", type=float, default=2)
    ap.add_argument("--out", default="results.jsonl")
    args = ap.parse_args()
    targets = json.load(open(args.targets))
    sets = {"floors": lambda s: s.floor, "quick": lambda s: s.quick, "full": lambda s: True}
    chosen = [n for n, s in SCENARIOS.items() if (sets[args.scenarios](s) if args.scenarios in sets else re.search(args.scenarios, n))]
    if not chosen:
        sys.exit(f"no scenario matches {args.scenarios}; there are: {', '.join(SCENARIOS)}")
    same = check_hooks(targets)
    results = {}
    with open(args.out, "a") as out:
        for name in chosen:
            for turn in range(args.rounds):
                order = list(targets.items())
                for target, extra in order if turn % 2 == 0 else reversed(order):
                    r = run_once(SCENARIOS[name], extra, args.secs, f"{target}/{name}")
                    results.setdefault(name, {}).setdefault(target, []).append(r)
                    print(json.dumps(r), file=out, flush=True)
                    s = SCENARIOS[name]
                    brief = {m: dig(r, m) for m in (s.rate, f"{s.ms}.p50", f"{s.ms}.p99", "cpu.server", "cpu.loadgen", "cpu.machine")}
                    print(f"{name:16} {target:5} {json.dumps(brief)} {wrong(r) or ''}", file=sys.stderr)
                    time.sleep(args.pause)
    good = True
    if {"peer", "ours"} <= targets.keys() and any(SCENARIOS[n].floor for n in chosen):
        good = print_floors(results)
        print()
    print_all(results, list(targets))
    if not (good and same):
        sys.exit(1)


if __name__ == "__main__":
    main()
