# shellcheck shell=bash
# Functions for the scripts that people run: what has to be installed before they can start.

# program -> Debian package
declare -A debian_package=(
  [fio]=fio [nbdkit]=nbdkit [qemu-img]=qemu-utils [qemu-system-x86_64]=qemu-system-x86
  [nbdinfo]=libnbd-bin [nbdcopy]=libnbd-bin [nbdfuse]=libnbd-bin [fusermount3]=fuse3 [nbd-client]=nbd-client
  [busybox]=busybox-static [cpio]=cpio [mkfs.ext4]=e2fsprogs [sqlite3]=sqlite3 [zstd]=zstd [modprobe]=kmod
  [g++]=g++ [make]=make [python3]=python3
)

missing_programs() {
  local program
  for program in "${!debian_package[@]}"; do
    command -v "$program" > /dev/null || echo "$program"
  done | sort
}

# Installs what the tests use and this machine lacks. Without the means to install, names it: in CI that is a failure,
# elsewhere the tests that need it are left out, and say so.
install_tools() {
  local missing packages
  missing=$(missing_programs)
  if [[ -z $missing ]]; then return 0; fi
  if [[ $(id -u) -eq 0 ]] && command -v apt-get > /dev/null; then
    packages=$(for program in $missing; do echo "${debian_package[$program]}"; done | sort -u)
    echo "installing:" $packages
    # shellcheck disable=SC2086 # one word a package
    apt-get update -q > /dev/null &&
      DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $packages > /dev/null < /dev/null
    missing=$(missing_programs)
    if [[ -z $missing ]]; then return 0; fi
  fi
  echo "not installed, and not installable here:" $missing >&2
  if [[ "${CI:-}" == true ]]; then return 1; fi
  echo "tests that need them are left out" >&2
  export TIDEMARK_TEST_WITHOUT_TOOLS=1
}

# True when node_modules holds exactly what package-lock.json asks for.
node_modules_current() {
  node -e '
    const { readFileSync } = require("node:fs");
    const read = (path) => JSON.parse(readFileSync(path, "utf8")).packages;
    const wanted = read("package-lock.json");
    const present = read("node_modules/.package-lock.json");
    const lacks = Object.entries(wanted).some(
      ([path, { version, optional }]) => path !== "" && !optional && present[path]?.version !== version);
    const stray = Object.entries(present).some(([path, { version }]) => wanted[path]?.version !== version);
    process.exitCode = lacks || stray ? 1 : 0;' 2> /dev/null
}

install_node_modules() {
  if node_modules_current; then return 0; fi
  npm ci --no-audit --no-fund --loglevel=error < /dev/null
}

# For scripts that cannot do without: installs the named programs when root, else names them and fails.
need_programs() {
  local program missing=()
  for program in "$@"; do command -v "$program" > /dev/null || missing+=("${debian_package[$program]}"); done
  if [[ ${#missing[@]} -eq 0 ]]; then return 0; fi
  if [[ $(id -u) -eq 0 ]] && command -v apt-get > /dev/null; then
    echo "installing: ${missing[*]}"
    apt-get update -q > /dev/null &&
      DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" > /dev/null < /dev/null
    return
  fi
  echo "needed and not installed (Debian packages): ${missing[*]}" >&2
  return 1
}
