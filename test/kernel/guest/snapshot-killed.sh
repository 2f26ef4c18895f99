# The server is killed eight times at random moments, with a snapshot in place, so that all writes go through the log and regions are
# preserved; before some of the kills the volume is restored, so that they meet the copying in the background. After each, what was
# committed or synced is there.
. /guest/guest.sh

cat >/tmp/config.toml <<TOML
[groups]
copy-bytes-per-second = "2M"
TOML
BLOCKS=192 # of 64 KiB, in a file that is overwritten at random
start_node --config /tmp/config.toml
tidemark create db --volume data:64M --log-size 4M
attach db/data
volume=$device
mkfs.ext4 -q "$volume"
mount "$volume" /mnt
mkdir /tmp/beside
dd if=/dev/urandom of=/tmp/model bs=64k count=$BLOCKS 2>/dev/null
cp /tmp/model /mnt/blocks
create_rows /mnt/rows.db
: >/tmp/committed
write_rows /mnt/rows.db 1 &
writer=$!
some() { [ "$(wc -l </tmp/committed)" -ge 3 ]; }
wait_until some
# shellcheck disable=SC2046 # one word a process
kill -KILL $(pidof sqlite3)
wait "$writer" || true
umount /mnt
tidemark snapshot create db@base
cp /tmp/model /tmp/model-base
cp /tmp/committed /tmp/committed-base
mount "$volume" /mnt

# Blocks with a sync each; /tmp/block tells which one was under way. The model has those that were synced.
write_blocks() {
  { set +ex; } 2>/dev/null
  while :; do
    block=$((RANDOM % BLOCKS))
    echo $block >/tmp/block
    dd if=/dev/urandom of=/tmp/new bs=64k count=1 2>/dev/null
    dd if=/tmp/new of=/mnt/blocks bs=64k seek=$block conv=notrunc,fsync 2>/dev/null || return 0
    dd if=/tmp/new of=/tmp/model bs=64k seek=$block conv=notrunc 2>/dev/null
  done
}

check_blocks() {
  if [ -e /tmp/block ]; then
    dd if=/mnt/blocks of=/tmp/model bs=64k skip="$(cat /tmp/block)" seek="$(cat /tmp/block)" count=1 conv=notrunc 2>/dev/null
  fi
  cmp /tmp/model /mnt/blocks
}

for round in 1 2 3 4 5 6 7 8; do
  next=$(($(sort -n /tmp/committed /tmp/committed-base | tail -n 1) + 1000))
  write_rows /mnt/rows.db $next &
  write_blocks &
  sleep "$((RANDOM % 3)).$((RANDOM % 10))"
  kill -KILL "$node_pid"
  # The writers end by themselves, with EIO.
  wait
  umount /mnt
  wait_until is_free "$volume"

  start_node --config /tmp/config.toml
  attach db/data "$volume"
  e2fsck -p "$volume" || [ $? = 1 ]
  e2fsck -fn "$volume"
  mount "$volume" /mnt
  check_rows /mnt/rows.db /tmp/committed
  check_blocks
  case $round in 2 | 3 | 5 | 6) ;; *) continue ;; esac

  umount /mnt
  tidemark restore db@base
  rm -f /tmp/block
  cp /tmp/model-base /tmp/model
  cp /tmp/committed-base /tmp/committed
  e2fsck -fn "$volume"
  mount "$volume" /mnt
  check_blocks
  check_rows /mnt/rows.db /tmp/committed
done
# Otherwise nothing was seen of what this is about: a restore that ends in another process than the one it began in.
resumed=$(awk '/recovery.started/ { begun = 0 } /restore.started/ { begun = 1 } /restore.completed/ && !begun { n++ } END { print n + 0 }' /tmp/node.log)
[ "$resumed" -ge 1 ]

# The snapshot has come through all of it as it was.
attach db/data@base --read-only
mount -o ro,noload "$device" /tmp/beside
cmp /tmp/model-base /tmp/beside/blocks
umount /tmp/beside
tidemark detach "$device"
umount /mnt
tidemark detach "$volume"
stop_node
