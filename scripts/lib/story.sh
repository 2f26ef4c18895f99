# shellcheck shell=bash
# What scripts/demo tells its story with. Expects $folder, $uri, $keep and $TIDEMARK_STATE.

node_pids=()
device=
mounted=false

# Bold where a person looks, plain in a file or a pipe.
if [[ -t 1 ]]; then bold=$'\033[1m' plain=$'\033[0m'; else bold='' plain=''; fi

chapter() { printf '\n%s-- %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '%s\n' "$*"; }
have() { command -v "$1" > /dev/null; }

# Prints a command as one would type it, then runs it. The temporary folder is shown as "." in both; a column of a table keeps its width.
show() {
  local word line='$' pad=${folder//?/ }
  for word in "$@"; do
    if [[ $word == *[\ ?\&]* ]]; then line+=" '$word'"; else line+=" $word"; fi
  done
  printf '%s\n' "${line//$folder/.}"
  "$@" 2>&1 | sed -e "s|\(nbd[^ ]*\)$folder\([^ ]*\)  |\1.\2${pad:1}  |" -e "s|$folder|.|g"
}

# As `show`, of a command that has to be refused.
show_refused() {
  if show "$@"; then
    echo 'that was to be refused' >&2
    exit 1
  fi
}

# As `show`, and says how long it took; most of that is to start a command at all.
show_timed() {
  local before after
  before=$(date +%s%N)
  tidemark --version > /dev/null
  after=$(date +%s%N)
  local start_ms=$(((after - before) / 1000000))
  before=$(date +%s%N)
  show "$@"
  after=$(date +%s%N)
  say "($(((after - before) / 1000000)) ms; a command that does nothing takes $start_ms ms)"
}

tidemark() { node dist/server/launch.cjs "$@"; }
demo_client() { node dist/scripts/demo-client.js "$@"; }

newer_sources() { find protocol engine server scripts -name '*.ts' -newer dist/server/main.js -print -quit; }

# Starts a node over the folder of that name, in a session of its own, so that Ctrl-C ends the story and not the node under it.
start_node() {
  local name=$1 pid
  printf '$ tidemark serve --state ./%s &\n' "$name"
  setsid node dist/server/launch.cjs serve --state "$folder/$name" > "$folder/$name.ready" 2> "$folder/$name.log" < /dev/null &
  pid=$!
  node_pids+=("$pid")
  until [[ -s $folder/$name.ready ]]; do
    if ! kill -0 "$pid" 2> /dev/null; then
      cat "$folder/$name.log" >&2
      exit 1
    fi
    sleep 0.1
  done
  sed "s|$folder|.|g" "$folder/$name.ready"
}

# Waits until B shows all that A has.
follow() { demo_client follow "$folder/a/control.sock" "$folder/b/control.sock"; }

# What the link has carried so far: the log, and regions; in bytes.
traffic() { demo_client traffic "$folder/a/control.sock"; }

remember_traffic() { traffic_before=$(traffic); }

say_traffic() { say "$(($(traffic) - traffic_before)) bytes have travelled $1."; }

say_summary() {
  local total
  total=$(traffic)
  say "Byte for byte. The link has carried $((total / 1048576)) MiB in all: the first 64, and what was written since. The restores are in that, each of which"
  say 'would have cost another 64 MiB with a full copy of what there is, and 256 MiB with one of the volume.'
}

# With the tools that are here: libnbd's, else QEMU's, else our own client.
copy_in() {
  if have nbdcopy; then
    show nbdcopy --destination-is-zero "$1" "$2"
  elif have qemu-img; then
    show qemu-img convert -n --target-is-zero -f raw -O raw "$1" "$2"
  else
    show demo_client copy-in "$1" "$2"
  fi
}

copy_out() {
  if have nbdcopy; then
    show nbdcopy "$1" "$2"
  elif have qemu-img; then
    show qemu-img convert -f raw -O raw "$1" "$2"
  else
    show demo_client copy-out "$1" "$2"
  fi
}

overwrite() {
  if have qemu-io; then show qemu-io -f raw -c "write -P 0xee $1 $2" "$uri"; else show demo_client fill "$uri" "$1" "$2"; fi
}

trim() {
  if have qemu-io; then show qemu-io -f raw -c "discard $1 $2" "$uri"; else show demo_client trim "$uri" "$1" "$2"; fi
}

show_different() {
  show_refused cmp "$1" "$2"
}

volume_file() { echo "$TIDEMARK_STATE/groups/demo/volumes/disk.img"; }

kernel_device_possible() {
  if [[ $(id -u) -ne 0 ]]; then
    say 'Left out: only root can attach a volume to /dev/nbd0. As root, this demo mounts a filesystem on it.'
  elif [[ ! -b /dev/nbd0 ]] && ! modprobe nbd 2> /dev/null; then
    say "Left out: this kernel ($(uname -r)) has no nbd driver. With it, this demo mounts a filesystem on /dev/nbd0."
  else
    return 0
  fi
  return 1
}

kernel_device() {
  mkdir "$folder/mnt"
  show tidemark attach demo/disk | tee "$folder/attached"
  device=$(grep -om1 '/dev/nbd[0-9]*' "$folder/attached")
  show mkfs.ext4 -q -F "$device"
  show mount "$device" "$folder/mnt"
  mounted=true
  show cp README.md "$folder/mnt/"
  show sync -f "$folder/mnt"
  show tidemark snapshot create demo@files
  show rm "$folder/mnt/README.md"
  say 'What is mounted is not changed beneath its filesystem:'
  show_refused tidemark restore demo@files
  show umount "$folder/mnt"
  mounted=false
  show tidemark restore demo@files
  show mount "$device" "$folder/mnt"
  mounted=true
  show ls -l "$folder/mnt"
  show umount "$folder/mnt"
  mounted=false
  show tidemark detach "$device"
  device=
}

what_next() {
  chapter 'It goes on running. What you can type next:'
  cat << END
  export TIDEMARK_STATE=$folder/a
  alias tidemark='node $PWD/dist/server/launch.cjs'
  tidemark status --watch
  tidemark snapshot create demo@now
  tidemark diff demo/disk@before @now
  tidemark link pause demo b
  tidemark events --follow
  tidemark status --state $folder/b
  nbdinfo '$uri'
  mkdir $folder/mnt-fuse && nbdfuse $folder/mnt-fuse/disk.img '$uri' &    # a file that is the volume
  qemu-system-x86_64 -drive file='$uri',format=raw
END
  say 'And to end it:'
  say "  fusermount3 -u $folder/mnt-fuse    # if nbdfuse runs"
  say "  kill ${node_pids[*]}; $(printf 'tail --pid=%s -f /dev/null; ' "${node_pids[@]}")rm -r $folder"
}

clean_up() {
  local status=$? pid
  if $keep && [[ $status -eq 0 ]]; then return; fi
  if $mounted; then umount "$folder/mnt" || true; fi
  if [[ -n $device ]]; then tidemark detach "$device" || true; fi
  for pid in "${node_pids[@]}"; do kill "$pid" 2> /dev/null || true; done
  for pid in "${node_pids[@]}"; do
    # Longer than any clean stop takes; then the folder goes all the same.
    timeout 30 tail --pid="$pid" -f /dev/null || kill -KILL "$pid" || true
  done
  rm -rf "$folder"
}
