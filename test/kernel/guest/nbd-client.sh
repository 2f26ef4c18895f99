# Debian's own nbd-client, over netlink and over ioctls, over a unix socket and over TCP.
. /guest/guest.sh

start_node --listen 'nbd+unix:///?socket=/tmp/nbd.sock' --listen nbd://127.0.0.1:10809
tidemark create g --volume v:64M
for how in '-unix /tmp/nbd.sock' '-unix /tmp/nbd.sock -nonetlink' '127.0.0.1 10809' '127.0.0.1 10809 -nonetlink -C 2'; do
  # shellcheck disable=SC2086 # several words on purpose
  case $how in
    *nonetlink*) nbd-client $how /dev/nbd1 -N g/v -nofork & client=$! ;;
    *) nbd-client $how /dev/nbd1 -N g/v; client= ;;
  esac
  connected() { [ "$(size_of /dev/nbd1)" = $((64 * 1024 * 1024)) ] && ! is_free /dev/nbd1; }
  wait_until connected
  mkfs.ext4 -q -F /dev/nbd1
  mount /dev/nbd1 /mnt
  fill /mnt /tmp/sums
  umount /mnt
  mount /dev/nbd1 /mnt
  (cd /mnt && sha256sum -c /tmp/sums)
  umount /mnt
  e2fsck -fn /dev/nbd1
  if [ -z "${refused:-}" ]; then
    # A device that someone else connected is neither taken nor detached.
    fails_with '/dev/nbd1 is in use' tidemark attach g/v /dev/nbd1
    fails_with 'not attached by this node' tidemark detach /dev/nbd1
    refused=yes
  fi
  nbd-client -d /dev/nbd1
  wait_until is_free /dev/nbd1
  [ -z "$client" ] || wait "$client"
done
