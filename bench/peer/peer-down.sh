#!/bin/bash
# Stops what peer-up.sh started below $BENCH: the parse-server process and its PostgreSQL cluster, by their recorded pids.
set -uo pipefail
BENCH=${BENCH:?the work folder of peer-up.sh}
stop() { # PIDFILE SIGNAL
  local pid; pid=$(head -1 "$1" 2>/dev/null) || return 0
  kill -"$2" "$pid" 2>/dev/null
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null
}
stop "$BENCH/run/peer.pid" TERM; rm -f "$BENCH/run/peer.pid"
stop "$BENCH/pg/data/postmaster.pid" INT # INT: the fast shutdown of PostgreSQL
exit 0
