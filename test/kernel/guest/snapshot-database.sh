# A database under load: its snapshot is mounted beside it while it goes on; then the volume goes back to the snapshot, and to what it was
# before that. Rule T4: the device, which stays attached, shows the restored content at once, though the kernel had the other in its cache.
. /guest/guest.sh

start_node
tidemark create db --volume data:96M --log-size 16M
attach db/data
volume=$device
mkfs.ext4 -q "$volume"
mount "$volume" /mnt
mkdir /tmp/beside
fill /mnt /tmp/sums
create_rows /mnt/rows.db
sync
: >/tmp/committed
write_rows /mnt/rows.db 1 &
writer=$!
committed_at_least() { [ "$(wc -l </tmp/committed)" -ge "$1" ]; }
wait_until committed_at_least 8

cp /tmp/committed /tmp/committed-before
tidemark snapshot create db@monday
# The one after this may have been under way; no later one can be in the snapshot.
first_after=$(($(last_committed) + 2))
wait_until committed_at_least $((first_after + 5))
fill /mnt /tmp/sums-after
rm /mnt/file3
sync

# Beside the volume, to write: the journal is replayed in the snapshot.
attach db/data@monday
mount "$device" /tmp/beside
check_rows /tmp/beside/rows.db /tmp/committed-before
[ "$(sqlite3 /tmp/beside/rows.db "SELECT count(*) FROM row WHERE id >= $first_after")" = 0 ]
(cd /tmp/beside && sha256sum -c /tmp/sums)
create_rows /tmp/beside/other.db
umount /tmp/beside
e2fsck -fn "$device"
monday=$(checksum "$device")

fails_with "$volume of db/data is mounted on /mnt" tidemark restore db@monday
at_refusal=$(wc -l </tmp/committed)
wait_until committed_at_least $((at_refusal + 2))
# shellcheck disable=SC2046 # one word a process
kill -KILL $(pidof sqlite3)
wait "$writer" || true
umount /mnt

# In the cache before, page by page.
tuesday=$(checksum "$volume")
[ "$tuesday" != "$monday" ]
tidemark detach "$device"
tidemark restore db@monday
[ "$(checksum "$volume")" = "$monday" ]
e2fsck -fn "$volume"
mount "$volume" /mnt
check_rows /mnt/rows.db /tmp/committed-before
[ "$(sqlite3 /mnt/rows.db "SELECT count(*) FROM row WHERE id >= $first_after")" = 0 ]
(cd /mnt && sha256sum -c /tmp/sums)
[ -e /mnt/other.db ]
umount /mnt

tidemark restore db@undo
[ "$(checksum "$volume")" = "$tuesday" ]
mount "$volume" /mnt
check_rows /mnt/rows.db /tmp/committed
grep -v file3 /tmp/sums-after | (cd /mnt && sha256sum -c)
[ ! -e /mnt/file3 ]
[ ! -e /mnt/other.db ]
umount /mnt
e2fsck -fn "$volume"
tidemark detach "$volume"
stop_node
