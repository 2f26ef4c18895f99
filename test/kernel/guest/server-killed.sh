# The server is killed under load, with a filesystem mounted. The device is freed; after a restart everything that was
# synced is there: each row whose commit returned, each file whose fsync returned.
. /guest/guest.sh

start_node
tidemark create g --volume v:96M
attach g/v
old_device=$device
mkfs.ext4 -q "$device"
mount "$device" /mnt
sqlite3 -bail /mnt/rows.db 'CREATE TABLE row (id INTEGER PRIMARY KEY, body TEXT);'
sync

# `.system` runs once the statement before it has been committed. `extra`, because a commit is the removal of the journal,
# and only with it is the folder synced afterwards.
: >/tmp/committed
(
  echo 'PRAGMA synchronous=extra;'
  i=0
  while :; do
    i=$((i + 1))
    echo "INSERT INTO row VALUES ($i, hex(randomblob(100)));"
    echo ".system echo $i >>/tmp/committed"
  done
) 2>/dev/null | sqlite3 -bail /mnt/rows.db 2>/tmp/sqlite.err &
: >/tmp/synced
(
  set +ex
  i=0
  while dd if=/dev/urandom of=/tmp/source bs=4k count=$((i % 9 + 1)) 2>/dev/null &&
    dd if=/tmp/source of="/mnt/synced$i" bs=4k conv=fsync 2>/dev/null; do
    echo "$(checksum /tmp/source)  synced$i" >>/tmp/synced
    i=$((i + 1))
  done
) &
enough() { [ "$(wc -l </tmp/committed)" -ge 15 ] && [ "$(wc -l </tmp/synced)" -ge 15 ]; }
wait_until enough
helper=$(helper_pid "$device")
kill -KILL "$node_pid"
# The writers end by themselves, with EIO; the helper too.
wait
wait_until [ ! -e "/proc/$helper" ]
committed=$(tail -n 1 /tmp/committed)
umount /mnt
wait_until is_free "$device"

start_node
attach g/v
[ "$device" = "$old_device" ]
# Replays the journal: 1 means that errors were corrected, which the flag in the superblock counts as.
e2fsck -p "$device" || [ $? = 1 ]
e2fsck -fn "$device"
mount "$device" /mnt
(cd /mnt && sha256sum -c /tmp/synced >/tmp/checked)
[ "$(grep -c ': OK$' /tmp/checked)" = "$(wc -l </tmp/synced)" ]
[ "$(sqlite3 /mnt/rows.db 'PRAGMA integrity_check')" = ok ]
[ "$(sqlite3 /mnt/rows.db "SELECT count(*) FROM row WHERE id <= $committed")" = "$committed" ]
umount /mnt
tidemark detach "$device"
