# A read-only device refuses writes in the block layer, and its volume stays as it was.
. /guest/guest.sh

start_node
tidemark create g --volume v:32M,file=/state/v.img
attach g/v
mkfs.ext4 -q "$device"
mount "$device" /mnt
fill /mnt /tmp/sums
umount /mnt
tidemark detach "$device"
before=$(checksum /state/v.img)

attach g/v --read-only
[ "$(blockdev --getro "$device")" = 1 ]
refuses dd if=/dev/urandom of="$device" bs=4k count=1 conv=fsync
mount -o ro,noload "$device" /mnt
(cd /mnt && sha256sum -c /tmp/sums)
umount /mnt
tidemark detach "$device"
[ "$(checksum /state/v.img)" = "$before" ]

# The next attach is not read-only because the last one was.
attach g/v "$device"
[ "$(blockdev --getro "$device")" = 0 ]
dd if=/dev/urandom of="$device" bs=4k count=1 conv=fsync
tidemark detach "$device"
