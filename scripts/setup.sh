#!/bin/sh
# .venv of this clone, and the Debian packages that torpor.setup lists. Does nothing that is done
# already. Where packages cannot be installed, .venv lacks what machines need, and the rest works.
set -eu
cd "$(dirname "$0")/.."

say() { printf '· %s\n' "$*" >&2; }

if ! python3 -c 'import ensurepip' 2>/dev/null; then
    sudo=""
    if [ "$(id -u)" != 0 ]; then sudo=sudo; fi
    say "installing python3-venv"
    $sudo apt-get update -q >/dev/null
    $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends python3-venv >/dev/null
fi

without=""
PYTHONPATH=src python3 -B -m torpor.setup || without="--no-install-package pyfuse3"

uv=$(command -v uv || echo .uv/bin/uv)
if [ ! -x "$uv" ]; then
    say "installing uv"
    python3 -m venv .uv
    .uv/bin/pip install --quiet --disable-pip-version-check uv
fi
# One quick look first: the usual case is that nothing is to be done.
# shellcheck disable=SC2086
if ! "$uv" sync --frozen --offline --quiet $without 2>/dev/null; then
    say "installing Python packages (one of them is compiled: half a minute)"
    "$uv" sync --frozen $without
fi
