# The machine itself: node runs, fio verifies on a RAM disk, the modules are there, root may do what it must.
. /guest/guest.sh

uname -r
[ -b /dev/nbd0 ]
[ "$(node -p 'process.platform + process.versions.node.split(".")[0]')" = "linux$(node -v | sed 's/^v//; s/\..*//')" ]
fio --name=ram --filename=/tmp/fio.bin --size=4M --rw=randwrite --bs=4k --verify=crc32c --do_verify=1 --minimal >/tmp/fio.txt
sqlite3 -version
nbd-client --version || true
