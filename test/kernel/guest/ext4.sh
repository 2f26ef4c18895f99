# By the command line: a filesystem lives through unmount, check, detach and attach, and a restart of the node.
. /guest/guest.sh

start_node
cli create g --volume v:96M
cli attach g/v >/tmp/attach.out
device=$(cat /tmp/attach.out)
[ "$device" = /dev/nbd0 ]
[ "$(size_of /dev/nbd0)" = $((96 * 1024 * 1024)) ]
mkfs.ext4 -q "$device"
mount "$device" /mnt
fill /mnt /tmp/sums
sync
fails_with '/dev/nbd0 is in use: mounted on /mnt' cli detach "$device"
umount /mnt
e2fsck -fn "$device"
before=$(checksum "$device")
cli detach "$device"
is_free "$device"
[ "$(size_of "$device")" = 0 ]

attach g/v /dev/nbd5
[ "$device" = /dev/nbd5 ]
[ "$(checksum "$device")" = "$before" ]
tidemark detach "$device"
stop_node

start_node
attach g/v
[ "$(checksum "$device")" = "$before" ]
mount "$device" /mnt
(cd /mnt && sha256sum -c /tmp/sums)
umount /mnt
# A clean shutdown takes its devices along.
stop_node
is_free "$device"
