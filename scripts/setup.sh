#!/bin/sh
# Everything torpor needs on this machine: system packages by apt, then Python ones by uv.
# Does nothing that is done already.
set -eu
cd "$(dirname "$0")/.."

PACKAGES="qemu-system-x86 mmdebstrap debian-archive-keyring erofs-utils e2fsprogs lz4 zstd fuse3
    libfuse3-dev pkg-config gcc python3-dev python3-venv uidmap cpio chromium"

say() { printf '\033[2m· %s\033[0m\n' "$*" >&2; }

missing=""
for package in $PACKAGES; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    say "installing Debian packages:$missing"
    sudo=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "Run as root: apt-get install$missing" >&2; exit 1; }
        sudo=sudo
    fi
    $sudo apt-get update -q >/dev/null
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends $missing >/dev/null
fi

uv=$(command -v uv || echo .uv/bin/uv)
if [ ! -x "$uv" ]; then
    say "installing uv"
    python3 -m venv .uv
    .uv/bin/pip install --quiet --disable-pip-version-check uv
fi
# One quick look first: the usual case is that nothing is to be done.
if ! "$uv" sync --frozen --offline --quiet 2>/dev/null; then
    say "installing Python packages (one of them is compiled: half a minute)"
    "$uv" sync --frozen
fi
