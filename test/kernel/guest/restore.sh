# Rule T4: what is mounted is not restored beneath its filesystem; a device that is attached and not mounted shows the restored data, though the
# kernel had the old in its cache. The snapshot is mounted beside its volume, read-only and to write.
. /guest/guest.sh

start_node
tidemark create db --volume data:64M
attach db/data
volume=$device
mkfs.ext4 -q -F "$volume"
mount "$volume" /mnt
mkdir /tmp/beside
echo monday >/mnt/day
sync
cli snapshot create db@monday
echo tuesday >/mnt/day
dd if=/dev/urandom of=/mnt/more bs=1M count=8 2>/dev/null
sync

attach db/data@monday --read-only
mount -o ro,noload "$device" /tmp/beside
[ "$(cat /tmp/beside/day)" = monday ]
[ "$(cat /mnt/day)" = tuesday ]
umount /tmp/beside
tidemark detach "$device"

attach db/data@monday
mount "$device" /tmp/beside
[ "$(cat /tmp/beside/day)" = monday ]
echo written >/tmp/beside/note
fails_with "$device of db/data@monday is mounted on /tmp/beside" cli snapshot refresh db@monday
fails_with "db/data@monday is mounted" cli snapshot delete db@monday
umount /tmp/beside
tidemark detach "$device"

fails_with "$volume of db/data is mounted on /mnt; unmount.*--force" cli restore db@monday
[ "$(cat /mnt/day)" = tuesday ]
umount /mnt
# In the cache of the device, which stays attached.
before=$(sha256sum <"$volume")
cli restore db@monday
[ "$(sha256sum <"$volume")" != "$before" ]
e2fsck -fp "$volume" || [ $? = 1 ]
mount "$volume" /mnt
[ "$(cat /mnt/day)" = monday ]
[ "$(cat /mnt/note)" = written ]
[ ! -e /mnt/more ]
umount /mnt
cli restore db@undo --wait
mount "$volume" /mnt
[ "$(cat /mnt/day)" = tuesday ]
[ "$(wc -c </mnt/more)" = 8388608 ]

# Whoever forces has been warned.
cli restore db@monday --force
umount /mnt || umount -l /mnt
wait_until is_free "$volume"
attach db/data
mount "$device" /mnt
[ "$(cat /mnt/day)" = monday ]
umount /mnt
tidemark detach "$device"
stop_node
