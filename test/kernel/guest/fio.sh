# fio writes to the device past the page cache, several requests deep, and reads everything back.
. /guest/guest.sh

start_node
tidemark create g --volume v:32M
attach g/v --connections 2
for pattern in randwrite randrw write; do
  fio --name="$pattern" --filename="$device" --size=12M --offset=4M --rw="$pattern" --bsrange=4k-128k --bs_unaligned=0 \
    --direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c --do_verify=1 --verify_fatal=1 --verify_dump=0 \
    --randseed=7 --end_fsync=1 --minimal >/tmp/fio.txt
done
tidemark detach "$device"
