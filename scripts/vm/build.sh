# Builds what the machine boots from: three cpio archives, which the kernel unpacks one over the other.
#   base     busybox, node, tools with their libraries, kernel modules: cached until one of them changes
#   modules  the production node_modules: cached until package-lock.json changes
#   run      the built project, init and the guest scripts: made at each run
# Sourced by `run`, which sets here, project and cache.
# shellcheck shell=bash disable=SC2154

packages=(qemu-system-x86 busybox-static cpio e2fsprogs fio sqlite3 nbd-client kmod util-linux)
tools=(node fio sqlite3 nbd-client mkfs.ext4 e2fsck blkdiscard fstrim blockdev kmod flock)
export PATH="$PATH:/usr/sbin:/sbin"

install_missing_packages() {
  local missing=() package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    echo "vm: missing Debian packages: ${missing[*]} (install them: apt-get install ${missing[*]})" >&2
    exit 2
  fi
  echo "vm: installing ${missing[*]}" >&2
  if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >"$work/apt.log" 2>&1; then
    echo "vm: apt-get could not install ${missing[*]}:" >&2
    tail -n 5 "$work/apt.log" >&2
    exit 2
  fi
}

# Leaves $kernel (the image) and $kernel_tree (the unpacked package). A cached kernel is used without asking apt.
fetch_kernel() {
  kernel_tree=$cache/kernel
  if [ ! -f "$kernel_tree/complete" ]; then
    local package
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
    if [ -z "$package" ] && [ "$(id -u)" = 0 ]; then
      apt-get update >&2
      package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '$1 == "Depends:" { print $2; exit }')
    fi
    if [ -z "$package" ]; then
      echo "vm: apt knows no linux-image-cloud-amd64; run 'apt-get update' as root" >&2
      exit 2
    fi
    rm -rf "$kernel_tree" "$cache/download"
    mkdir -p "$kernel_tree" "$cache/download"
    (cd "$cache/download" && apt-get -o APT::Sandbox::User=root download "$package" >&2) || {
      echo "vm: could not download $package" >&2
      exit 2
    }
    dpkg -x "$cache"/download/*.deb "$kernel_tree"
    rm -rf "$cache/download"
    echo "$package" >"$kernel_tree/complete"
  fi
  kernel=$(ls "$kernel_tree"/boot/vmlinuz-*)
  kernel_release=$(basename "$kernel" | sed 's/^vmlinuz-//')
}

# copy_with_libraries ROOT PROGRAM: the program under /usr/bin, and its libraries where the loader looks for them.
copy_with_libraries() {
  local root=$1 program library
  program=$(readlink -f "$(command -v "$2")") || { echo "vm: no program $2" >&2; exit 2; }
  cp "$program" "$root/usr/bin/$2"
  { ldd "$program" 2>/dev/null || true; } | awk '/=> \//{ print $3 } $1 ~ /^\//{ print $1 }' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    [ -e "$root$library" ] || cp -L "$library" "$root$library"
  done
}

pack() { (cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --null --create --format=newc --owner=0:0 --quiet) >"$2.part" && mv "$2.part" "$2"; }

build_base() {
  local key root tool program
  key=$({
    cat "$here/build.sh" "$kernel_tree/complete"
    for tool in "${tools[@]}" busybox; do
      program=$(readlink -f "$(command -v "$tool")") || true
      stat -L -c '%n %s %Y' "${program:-$tool}" 2>/dev/null || echo "$tool missing"
    done
  } | sha256sum | cut -c1-16)
  base_cpio=$cache/base-$key.cpio
  [ ! -f "$base_cpio" ] || return 0
  rm -f "$cache"/base-*.cpio
  root=$work/base
  mkdir -p "$root"/{usr/bin,usr/lib,usr/lib64,usr/sbin,dev,proc,sys,run,tmp,etc,state,mnt,root}
  local folder
  for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$root/$folder"; done
  cp "$(command -v busybox)" "$root/usr/bin/busybox"
  for tool in "${tools[@]}"; do copy_with_libraries "$root" "$tool"; done
  for tool in modprobe insmod rmmod lsmod depmod; do ln -s ../bin/kmod "$root/usr/sbin/$tool"; done
  # /etc/mke2fs.conf: without it mkfs.ext4 makes an ext2.
  cp /etc/mke2fs.conf "$root/etc/"
  echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  copy_kernel_modules "$root"
  pack "$root" "$base_cpio"
  rm -rf "$root"
}

# nbd, the virtio disk and what they depend on, with the index that modprobe reads.
copy_kernel_modules() {
  local from=$kernel_tree/lib/modules/$kernel_release to=$1/usr/lib/modules/$kernel_release module path
  [ -f "$from/modules.dep" ] || depmod -b "$kernel_tree" "$kernel_release"
  mkdir -p "$to"
  cp "$from"/modules.builtin* "$from/modules.order" "$to/"
  for module in nbd virtio_pci virtio_blk; do
    { grep -E "/$module\.ko[^:]*:" "$from/modules.dep" || true; } | tr -d : | tr ' ' '\n' | while read -r path; do
      [ -n "$path" ] || continue
      mkdir -p "$to/$(dirname "$path")"
      cp "$from/$path" "$to/$path"
    done
  done
  depmod -b "$1/usr" "$kernel_release" 2>/dev/null || depmod -b "$1" "$kernel_release"
}

build_modules() {
  local key root=$work/modules list
  key=$(cat "$project/package-lock.json" "$here/build.sh" | sha256sum | cut -c1-16)
  modules_cpio=$cache/modules-$key.cpio
  [ ! -f "$modules_cpio" ] || return 0
  rm -f "$cache"/modules-*.cpio
  mkdir -p "$root/app"
  list=$(cd "$project" && npm ls --omit=dev --all --parseable 2>/dev/null | grep "/node_modules/" | sed "s|^$project/||" | LC_ALL=C sort -u) || true
  [ -n "$list" ] || { echo "vm: no production packages in node_modules; run 'npm ci' first" >&2; exit 2; }
  (cd "$project" && echo "$list" | tr '\n' '\0' | xargs -0 -I{} find {} -name node_modules -prune -o -type f ! -name '*.ts' ! -name '*.map' ! -name '*.o' ! -name '*.md' -print0 | cpio --null --pass-through --make-directories --quiet "$root/app")
  pack "$root" "$modules_cpio"
  rm -rf "$root"
}

# build_run WORK SCENARIO_BOUND SCRIPT...
build_run() {
  local target=$1 scenario_bound=$2 root=$1/run script
  shift 2
  mkdir -p "$root"/{app,guest/scenarios}
  if [ -d "$project/dist" ]; then
    (cd "$project" && find dist -name '*.js' ! -path 'dist/scripts/*' -print0 | cpio --null --pass-through --make-directories --quiet "$root/app")
  fi
  cp "$project/package.json" "$root/app/"
  cp "$here/init" "$root/init"
  cp "$here/guest.sh" "$here/guest-control.mjs" "$root/guest/"
  chmod 0755 "$root/init"
  echo "$scenario_bound" >"$root/guest/scenario-bound"
  for script in "$@"; do
    cp "$script" "$root/guest/scenarios/"
    basename "$script" >>"$root/guest/order"
  done
  pack "$root" "$target/run.cpio"
}
