# Four connections; what the filesystem gives back leaves the file under the volume.
. /guest/guest.sh

start_node
tidemark create g --volume v:64M,file=/state/v.img
attach g/v --connections 4
[ "$(session_count)" = 4 ]
[ "$(cat /sys/block/nbd0/queue/discard_max_bytes)" -gt 0 ]
[ "$(cat /sys/block/nbd0/queue/fua)" = 1 ]
[ "$(cat /sys/block/nbd0/queue/write_cache)" = 'write back' ]
# The block layer makes no more hardware queues than there are processors.
[ "$(ls /sys/block/nbd0/mq | wc -l)" = "$(nproc)" ]

used_kib() { du -k /state/v.img | cut -f1; }
fio --name=parallel --filename="$device" --numjobs=4 --size=4M --offset_increment=4M --rw=randwrite --bs=4k --direct=1 \
  --ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --verify_dump=0 --group_reporting --minimal >/tmp/fio.txt
[ "$(used_kib)" -ge 16000 ]
blkdiscard "$device"
[ "$(used_kib)" -lt 1000 ]
[ "$(checksum "$device")" = "$(dd if=/dev/zero bs=1M count=64 2>/dev/null | sha256sum | cut -d" " -f1)" ]

mkfs.ext4 -q "$device"
mount "$device" /mnt
dd if=/dev/urandom of=/mnt/big bs=1M count=24
sync
[ "$(used_kib)" -ge 24000 ]
rm /mnt/big
sync
fstrim -v /mnt
[ "$(used_kib)" -lt 12000 ]
umount /mnt
e2fsck -fn "$device"
tidemark detach "$device"
