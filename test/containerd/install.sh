#!/bin/sh
# Builds what the containerd tests need and Debian lacks: the nydus-snapshotter, from its Go module. Needs Go; takes some
# minutes once. `exclude` lines of its go.mod forbid `go install`, so it is built in a copy of the module.
set -eu

VERSION=v0.15.15
MODULE=github.com/containerd/nydus-snapshotter
KEPT="${XDG_CACHE_HOME:-$HOME/.cache}/nydusd-ts"
PROGRAM="$KEPT/containerd-nydus-grpc-$VERSION"

if [ -x "$PROGRAM" ]; then
  exit 0
fi
if ! command -v go >/dev/null 2>&1; then
  echo "containerd tests: no Go compiler on PATH, the nydus-snapshotter cannot be built; install Go 1.24 or newer" >&2
  exit 1
fi
copy=$(mktemp -d)
trap 'chmod -R u+w "$copy"; rm -rf "$copy"' EXIT
source=$(go mod download -json "$MODULE@$VERSION" | sed -n 's/^.*"Dir": "\(.*\)",$/\1/p')
cp -r "$source/." "$copy"
chmod -R u+w "$copy"
mkdir -p "$KEPT"
(cd "$copy" && go build -mod=mod -o "$PROGRAM" ./cmd/containerd-nydus-grpc)
