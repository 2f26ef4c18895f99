# What the guest scenarios share. Each sources it (`. /guest/guest.sh`) and runs under `sh -eux`; init runs it as
# `sh guest.sh clean-up` between scenarios. Conditions are waited for without a bound of their own: the scenario has one.

export TIDEMARK_STATE=/state/node

# The command line as people have it, and the same words to the control API without its start-up time.
cli() { node --max-lazy --no-opt /app/dist/server/main.js "$@"; }
tidemark() { node /guest/guest-control.mjs "$@"; }

# start_node [serve's options]: returns when it is ready; $node_pid.
start_node() {
  : >/tmp/node.out
  node /app/dist/server/main.js serve "$@" >/tmp/node.out 2>>/tmp/node.log &
  node_pid=$!
  ready_or_gone() { [ -s /tmp/node.out ] || [ ! -e "/proc/$node_pid" ]; }
  wait_until ready_or_gone
  [ -s /tmp/node.out ]
}

stop_node() {
  kill -TERM "$node_pid"
  wait "$node_pid"
}

# attach EXPORT [options]: $device.
attach() {
  tidemark attach "$@" >/tmp/attach.out
  device=$(grep -o '/dev/nbd[0-9]*' /tmp/attach.out | head -n 1)
  [ -b "$device" ]
}

# The serving helper of a device.
helper_pid() { cat "/sys/block/${1#/dev/}/pid"; }

# Sessions of the node, as `status` has them.
session_count() {
  tidemark status --json >/tmp/status.json
  node -p 'JSON.parse(require("fs").readFileSync("/tmp/status.json", "utf8")).sessions.length'
}

# Without a trace of every look.
wait_until() {
  { set +x; } 2>/dev/null
  until "$@"; do sleep 0.1; done
  set -x
}

is_free() { [ ! -e "/sys/block/${1#/dev/}/pid" ]; }

# fails_with TEXT COMMAND...: the command must end with status 1 and say TEXT on one line of standard error.
fails_with() {
  expected=$1
  shift
  status=0
  "$@" 2>/tmp/stderr.all || status=$?
  # Without what `sh -x` says of the command itself.
  grep -v '^+' /tmp/stderr.all >/tmp/stderr
  cat /tmp/stderr
  [ "$status" = 1 ]
  grep -q -e "$expected" /tmp/stderr
  [ "$(wc -l </tmp/stderr)" = 1 ]
}

# refuses COMMAND...: must fail. (`! command` would not do: `set -e` does not look at it.)
refuses() {
  if "$@"; then return 1; fi
}

size_of() { echo $(($(cat "/sys/block/${1#/dev/}/size") * 512)); }

checksum() { sha256sum "$1" | cut -d' ' -f1; }

# Random files of several sizes under a folder, with their checksums in a list.
fill() {
  for i in 1 2 3 4 5 6 7 8; do
    dd if=/dev/urandom of="$1/file$i" bs="$((i * 37))k" count=1 2>/dev/null
  done
  (cd "$1" && sha256sum file*) >"$2"
}

# The text that a row of that number has: of many lengths, and nothing that another row has.
ROW_BODY="printf('%d %.*c', id, 200 + id * 37 % 3000, char(97 + id % 26))"

create_rows() { sqlite3 -bail "$1" 'CREATE TABLE row (id INTEGER PRIMARY KEY, body TEXT);'; }

# write_rows DATABASE FIRST: inserts rows, each in a transaction of its own, until that fails; /tmp/committed gets the numbers of those
# whose commit returned. `.system` runs once the statement before it has been committed. `extra`, because a commit is the removal of
# the journal, and only with it is the folder synced afterwards.
write_rows() {
  { set +ex; } 2>/dev/null
  {
    echo 'PRAGMA synchronous=extra;'
    i=$2
    while echo "WITH new(id) AS (VALUES ($i)) INSERT INTO row SELECT id, $ROW_BODY FROM new;" &&
      echo ".system echo $i >>/tmp/committed"; do
      i=$((i + 1))
    done
  } 2>/dev/null | sqlite3 -bail "$1" 2>/tmp/sqlite.err
}

last_committed() { tail -n 1 /tmp/committed; }

# check_rows DATABASE COMMITTED: the database is sound, its rows are what they should be, and those of the list are there.
check_rows() {
  [ "$(sqlite3 "$1" 'PRAGMA integrity_check')" = ok ]
  wrong=$(sqlite3 "$1" 'CREATE TEMP TABLE committed(id INTEGER)' ".import $2 committed" \
    "SELECT (SELECT count(*) FROM committed WHERE id NOT IN (SELECT id FROM row)), (SELECT count(*) FROM row WHERE body IS NOT $ROW_BODY)")
  [ "$wrong" = '0|0' ]
}

clean_up() {
  cd /
  swapoff -a 2>/dev/null || true
  umount /tmp/beside 2>/dev/null || true
  umount /mnt 2>/dev/null || umount -l /mnt 2>/dev/null || true
  for comm in /proc/[0-9]*/comm; do
    pid=${comm#/proc/}
    pid=${pid%/comm}
    case "$(cat "$comm" 2>/dev/null)" in node | MainThread | sqlite3 | fio) kill -KILL "$pid" 2>/dev/null ;; esac
  done
  for folder in /sys/block/nbd*; do
    [ ! -e "$folder/pid" ] || nbd-client -d "/dev/${folder##*/}" >/dev/null 2>&1 || true
  done
  rm -rf /state/* /tmp/* 2>/dev/null
}

if [ "${1:-}" = clean-up ]; then clean_up; fi
