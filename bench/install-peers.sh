#!/bin/sh
# Installs what `npm run bench` compares with: virtiofsd and nydusd from their crates. Takes some minutes and a C compiler.
set -eu

if command -v apt-get >/dev/null; then
  # Libraries the two crates link with.
  apt-get install -y --no-install-recommends libcap-ng-dev libseccomp-dev pkg-config cmake
fi
cargo install virtiofsd --locked
cargo install nydus-rs --version 2.2.0 --features virtiofs --locked
