#!/bin/sh
# Makes a Debian machine that has Node 20 and nothing else ready for build, tests and demo: system packages, then the
# npm packages. Idempotent: with everything there it only looks (well below a second) and prints nothing.
set -eu
cd "$(dirname "$0")/.."

# gcc, make, python3: native npm packages without a prebuilt binary for this machine are compiled.
BUILD='build-essential python3'
# The guests: emulator, shell and tools of the initrd, the kernel that is a process.
GUESTS='qemu-system-x86 busybox-static user-mode-linux findutils coreutils attr'
# The host's side of tests: namespaces, /dev/fuse mounts, EROFS tools, partition tables, containers.
HOST='util-linux fuse3 erofs-utils fdisk containerd runc'
# The network's side: an OCI registry, a web server (mirror, TLS, signed links), a forward proxy.
NETWORK='docker-registry nginx-light tinyproxy openssl'

have=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' $BUILD $GUESTS $HOST $NETWORK 2>/dev/null || true)
missing=''
for package in $BUILD $GUESTS $HOST $NETWORK; do
  echo "$have" | grep -qx "$package installed" || missing="$missing $package"
done

if [ -n "$missing" ]; then
  if [ "$(id -u)" -eq 0 ]; then
    as_root=''
  elif command -v sudo >/dev/null 2>&1; then
    as_root='sudo'
  else
    echo "setup: these Debian packages are missing:$missing" >&2
    echo "setup: neither root nor sudo here; as root run: apt-get update && apt-get install$missing" >&2
    exit 1
  fi
  echo "setup: installing$missing"
  $as_root apt-get update -q
  # RUNLEVEL=1: packages that carry a service must not start it; tests start their own.
  $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $missing
fi

# Native packages are compiled against the headers that came with this Node where there are some: no download then.
prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
if [ -e "$prefix/include/node/node_api.h" ]; then
  export npm_config_nodedir="$prefix"
fi

# Not `npm ci`: it refuses a lock file made where the registry lacked optional packages of other platforms. This takes
# the locked versions all the same and changes no tracked file. npm writes the tested file last.
[ -e node_modules/.package-lock.json ] || npm install --no-save --no-audit --no-fund
