#!/usr/bin/env bash
# Starts the server; the first time, creates its files and POSTGRES_DB. The superuser is `postgres`, with the password in
# POSTGRES_PASSWORD or in the file POSTGRES_PASSWORD_FILE. Another command than the server is run as it is.
set -euo pipefail
[ "$1" = postgres ] || exec "$@"
if [ "$(id --user)" = 0 ]; then
  chown postgres:postgres "$PGDATA"
  exec setpriv --reuid postgres --regid postgres --init-groups bash "$0" "$@"
fi

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username postgres --pwfile "${POSTGRES_PASSWORD_FILE:-/dev/fd/0}" --auth-local trust \
    --auth-host scram-sha-256 --no-sync <<<"${POSTGRES_PASSWORD:-}"
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  if [ "${POSTGRES_DB:-postgres}" != postgres ]; then
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$PGDATA" postgres
  fi
fi
exec "$@"
