# Which device, which size, and what is said when it cannot be.
. /guest/guest.sh

start_node
tidemark create g --volume a:16M --volume b:16M --volume huge:12T --volume odd:9999872
attach g/a /dev/nbd3
[ "$device" = /dev/nbd3 ]
attach g/a
[ "$device" = /dev/nbd0 ]
attach g/b
[ "$device" = /dev/nbd1 ]
fails_with '/dev/nbd3 is in use (attached to g/a)' tidemark attach g/b /dev/nbd3
fails_with 'g/none' tidemark attach g/none
status=0
cli attach g/b /dev/vda || status=$?
[ "$status" = 2 ]
fails_with 'the kernel has no /dev/nbd99' tidemark attach g/b /dev/nbd99
is_free /dev/nbd2

# Two at once never get the same device.
tidemark attach g/a >/tmp/one &
tidemark attach g/b >/tmp/two
wait $!
[ "$(grep -o '/dev/nbd[0-9]*' /tmp/one | head -n 1)" != "$(grep -o '/dev/nbd[0-9]*' /tmp/two | head -n 1)" ]

# Beyond 2^31 blocks; and a size that is a multiple of 512 only.
attach g/huge
[ "$(size_of "$device")" = $((12 * 1024 * 1024 * 1024 * 1024)) ]
dd if=/dev/urandom of="$device" bs=4k count=1 seek=3221225471 conv=fsync
attach g/odd
[ "$(size_of "$device")" = 9999872 ]
[ "$(cat "/sys/block/${device#/dev/}/queue/logical_block_size")" = 512 ]

# A partition table is read at attach: one entry of type 0x83 from block 256, 1024 blocks long, and the signature.
attach g/b /dev/nbd7
printf '\000\000\000\000\203\000\000\000\000\001\000\000\000\004\000\000' | dd of="$device" bs=1 seek=446 conv=notrunc
printf '\125\252' | dd of="$device" bs=1 seek=510 conv=notrunc
tidemark detach "$device"
attach g/b "$device"
[ -b "${device}p1" ]
[ "$(cat "/sys/block/nbd7/nbd7p1/size")" = $((1024 * 8)) ]

# A timeout is what the driver was told.
tidemark detach "$device"
attach g/b "$device" --timeout 7
[ "$(cat "/sys/block/${device#/dev/}/queue/io_timeout")" = 7000 ]

stop_node
start_node
rmmod nbd
fails_with 'modprobe nbd' tidemark attach g/a
cli doctor >/tmp/doctor.txt || true
grep -q 'modprobe nbd' /tmp/doctor.txt
modprobe nbd max_part=8 nbds_max=8
attach g/a
cli doctor
tidemark detach "$device"
