#!/bin/bash
# Starts the peer: npm ci (once), a private PostgreSQL cluster below $BENCH, one parse-server process.
# Needs Debian's postgresql package (its server programs are found by themselves); as root it runs them as `postgres`.
# Env: BENCH=work folder (the postgres user must be able to enter it)  PORT=21337  PG_PORT=55432  APP_ID  MASTER_KEY
#      DATABASE_URI=<another database, already up; no PostgreSQL is started then>
#      PEER_LOG=quiet|default  PEER_RATE_LIMIT=<n>  PEER_PG_POOL=<n>  PEER_REGEX_TIMEOUT=<ms>  PEER_CLOUD=off  NODE_FLAGS
# Prints the loadgen arguments on its last line.
set -euo pipefail
BENCH=${BENCH:?a work folder that the postgres user may enter}
HERE=$(cd "$(dirname "$0")" && pwd) PGDATA=$BENCH/pg/data RUN=$BENCH/run
export PORT=${PORT:-21337} PG_PORT=${PG_PORT:-55432}
mkdir -p "$RUN"
ulimit -n "$(ulimit -Hn)"

start_postgresql() {
  PGBIN=${PGBIN:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)}
  [ -x "$PGBIN/initdb" ] || { echo "peer-up: no PostgreSQL server here: apt-get install postgresql" >&2; exit 1; }
  mkdir -p "$BENCH/pg"
  if [ "$(id -u)" = 0 ]; then
    owner=${PGUSER_OS:-postgres}
    chmod 755 "$BENCH" "$BENCH/pg"; chown "$owner" "$BENCH/pg"
    as_pg() { (cd / && setpriv --reuid="$owner" --regid="$(id -g "$owner")" --clear-groups "$@"); }
  else
    as_pg() { (cd / && "$@"); }
  fi
  if [ ! -s "$PGDATA/PG_VERSION" ]; then
    as_pg "$PGBIN/initdb" -D "$PGDATA" -U bench -A trust -E UTF8 --locale=C >/dev/null
    # Durability stays at the defaults: fsync=on, synchronous_commit=on, full_page_writes=on
    printf '%s\n' "listen_addresses = '127.0.0.1'" "unix_socket_directories = '$BENCH/pg'" "max_connections = 100" \
      >>"$PGDATA/postgresql.conf"
  fi
  if ! as_pg "$PGBIN/pg_ctl" -D "$PGDATA" status >/dev/null 2>&1; then
    as_pg "$PGBIN/pg_ctl" -D "$PGDATA" -o "-p $PG_PORT" -l "$BENCH/pg/log" -w start >/dev/null
  fi
  "$PGBIN/psql" -h 127.0.0.1 -p "$PG_PORT" -U bench -d postgres -qAtc \
    "select 1 from pg_database where datname='parse'" | grep -q 1 ||
    "$PGBIN/createdb" -h 127.0.0.1 -p "$PG_PORT" -U bench parse
  export DATABASE_URI=postgres://bench@127.0.0.1:$PG_PORT/parse
  DATABASE_WATCH=" --watch postgres=$(head -1 "$PGDATA/postmaster.pid")"
}

if ! [ "$HERE/node_modules/.package-lock.json" -nt "$HERE/package-lock.json" ]; then
  (cd "$HERE" && npm ci --no-audit --no-fund --ignore-scripts && touch node_modules/.package-lock.json) >&2
fi
[ -n "${DATABASE_URI:-}" ] || start_postgresql

if [ -s "$RUN/peer.pid" ] && kill -0 "$(cat "$RUN/peer.pid")" 2>/dev/null; then
  echo "peer-up: already up" >&2
else
  cd "$RUN"
  NODE_ENV=production setsid node ${NODE_FLAGS:-} "$HERE/server.js" >"$RUN/peer.log" 2>&1 </dev/null &
  echo $! >"$RUN/peer.pid"
  for _ in $(seq 300); do
    grep -q "peer ready" "$RUN/peer.log" && break
    kill -0 "$(cat "$RUN/peer.pid")" 2>/dev/null || break
    sleep 0.2
  done
  grep -q "peer ready" "$RUN/peer.log" || { tail -n 20 "$RUN/peer.log" >&2; exit 1; }
fi
echo "--url http://127.0.0.1:$PORT/parse --watch server=$(cat "$RUN/peer.pid")${DATABASE_WATCH:-}"
