# Rule T4 the other way round: the bugs that it is there for, put into the server on purpose, have to be seen. What the device shows after a
# restore is compared with what the snapshot had, when the kernel has the later content in its cache, some of it not written yet.
. /guest/guest.sh

server=/app/dist/server
cp -a "$server" /tmp/sound
put_back() { cp -a /tmp/sound/. "$server/"; }
trap put_back EXIT

# bug FILE REGEXP REPLACEMENT: the text has to be there once.
bug() {
  node -e '
    const fs = require("fs");
    const [file, find, replacement] = process.argv.slice(1);
    const text = fs.readFileSync(file, "utf8");
    const found = text.match(new RegExp(find, "g"))?.length ?? 0;
    if (found !== 1) throw new Error(`${file}: ${find} is there ${found} times`);
    fs.writeFileSync(file, text.replace(new RegExp(find), () => replacement));
  ' "$server/$1" "$2" "$3"
}

content() { tr '\0' "$1" </dev/zero | dd bs=1M count=4 iflag=fullblock 2>/dev/null; }

# Nothing is written back unasked.
echo 0 >/proc/sys/vm/dirty_writeback_centisecs

# play: $shown is `restored` or `stale`, and $refused is whether the volume was restored beneath a filesystem: `refused` or `allowed`.
play() {
  start_node
  tidemark create db --volume data:8M --log-size 4M
  attach db/data
  { content a; content b; } | dd of="$device" bs=1M conv=fsync iflag=fullblock 2>/dev/null
  monday=$(checksum "$device")
  tidemark snapshot create db@monday
  content c | dd of="$device" bs=1M conv=notrunc,fsync iflag=fullblock 2>/dev/null
  content d | dd of="$device" bs=1M seek=4 conv=notrunc iflag=fullblock 2>/dev/null
  tidemark restore db@monday
  shown=stale
  [ "$(checksum "$device")" != "$monday" ] || shown=restored

  mkfs.ext4 -q -F "$device"
  mount "$device" /mnt
  refused=refused
  ! tidemark restore db@monday || refused=allowed
  umount /mnt
  tidemark detach "$device" --force || tidemark detach "$device"
  stop_node
  rm -rf "$TIDEMARK_STATE"
}

play
[ "$shown $refused" = 'restored refused' ]

# Clean pages stay in the cache.
bug kernel/device-helper.js 'nbd\.dropCaches\(deviceFd\);' ';'
play
[ "$shown" = stale ]
put_back

# Dirty pages are written after the restore, over it.
bug kernel/device-helper.js 'flush\(job\.device, deviceFd\);\s+say\(' 'say('
play
[ "$shown" = stale ]
put_back

# What is mounted is restored: nobody asks who uses the device, and it is not claimed.
bug use-guard.js 'if \(reasons\.length === 0\)' 'if (true)'
bug kernel/device-helper.js 'openDevice\(job\.device, constants\.O_EXCL\);\s+flush' 'openDevice(job.device); flush'
play
[ "$refused" = allowed ]
