# A device in use is not detached, unless forced; a device whose helper dies is free again, and the node says so.
. /guest/guest.sh

start_node
tidemark create g --volume v:64M
attach g/v
mkfs.ext4 -q "$device"
mount "$device" /mnt
fails_with "$device is in use: mounted on /mnt" tidemark detach "$device"
# Mounted where the node cannot see it: opening the device exclusively is what finds out.
mkdir -p /tmp/elsewhere
unshare -m sh -c "mount --make-rprivate / && mount $device /tmp/elsewhere && umount /mnt && touch /tmp/there && while [ ! -e /tmp/leave ]; do sleep 0.1; done" &
wait_until [ -e /tmp/there ]
umount /mnt
fails_with "$device is in use" tidemark detach "$device"
touch /tmp/leave
wait $!
mount "$device" /mnt
dd if=/dev/urandom of=/mnt/file bs=64k count=4 conv=fsync
tidemark detach "$device" --force
umount /mnt
wait_until is_free "$device"
tidemark events --json | grep -q device.detached

attach g/v
e2fsck -p "$device" || [ $? = 1 ]
mkswap "$device"
swapon "$device"
fails_with "$device is in use: used as swap" tidemark detach "$device"
swapoff "$device"

kill -KILL "$(helper_pid "$device")"
wait_until is_free "$device"
lost() { tidemark events --json | grep -q device.lost; }
wait_until lost
tidemark status --json >/tmp/status.json
refuses grep -q "\"$device\"" /tmp/status.json
attach g/v "$device"
tidemark detach "$device"
fails_with "not attached by this node" tidemark detach "$device"
