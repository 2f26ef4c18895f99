# SQLite on the mounted filesystem, both journal modes; the database moves to another device with its volume.
. /guest/guest.sh

start_node
tidemark create g --volume v:64M
attach g/v
mkfs.ext4 -q "$device"
mount "$device" /mnt
for mode in delete wal; do
  sqlite3 -bail "/mnt/$mode.db" <<SQL
PRAGMA journal_mode=$mode;
PRAGMA synchronous=full;
CREATE TABLE item (id INTEGER PRIMARY KEY, body TEXT, sum INTEGER);
CREATE INDEX by_body ON item(body);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
  INSERT INTO item SELECT i, hex(randomblob(40)), i * 7 FROM n;
DELETE FROM item WHERE id % 5 = 0;
UPDATE item SET body = body || 'x' WHERE id % 3 = 0;
VACUUM;
SQL
  [ "$(sqlite3 "/mnt/$mode.db" 'PRAGMA integrity_check')" = ok ]
done
umount /mnt
tidemark detach "$device"
attach g/v /dev/nbd2
mount "$device" /mnt
for mode in delete wal; do
  [ "$(sqlite3 "/mnt/$mode.db" 'PRAGMA integrity_check')" = ok ]
  [ "$(sqlite3 "/mnt/$mode.db" 'SELECT count(*), sum(sum) FROM item')" = '1600|11200000' ]
done
umount /mnt
e2fsck -fn "$device"
tidemark detach "$device"
