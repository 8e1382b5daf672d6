"""What is in the root file system of every machine.

Debian's essential packages, Python with the whole standard library, what compiled wheels leave to
the system, git, curl, CA certificates, the user `agent`; no service manager, no apt (a machine has
no network to install from). Everything that depends on the moment of the build is removed or fixed,
so that the same packages give the same bytes. Changing anything here changes `digest()`,
and with it the cached root.
"""

from __future__ import annotations

import hashlib
import json
import os

SUITE = "bookworm"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
KERNEL_PACKAGE = "linux-image-cloud-amd64"  # small, and has all that a microVM needs
PACKAGES = (
    "ca-certificates",
    "curl",
    "git",
    # What wheels expect to find: Node.js, as Playwright has it; LightGBM; pyodbc; psycopg; all C++.
    "libatomic1",
    "libgomp1",
    "libodbc2",
    "libpq5",
    "libstdc++6",
    "procps",
    "python3",
    "python3-distutils",
    "tzdata",
    "usr-is-merged",
)
# 55 MB of Perl, which usrmerge wants (usr-is-merged stands in for it), and of git what nobody calls
# here: sending mail, Subversion, gitweb.
PURGED = (
    "usrmerge",
    "git-man",
    "liberror-perl",
    "libfile-find-rule-perl",
    "libnumber-compare-perl",
    "libtext-glob-perl",
    "perl",
    "perl-modules-5.36",
    "libperl5.36",
    "libgdbm-compat4",
    "libgdbm6",
)
PATHS_EXCLUDED = (
    # Of git: to serve repositories, and to push over WebDAV. Each is 2 MB.
    "/usr/bin/git-shell",
    "/usr/bin/scalar",
    "/usr/lib/git-core/git-daemon",
    "/usr/lib/git-core/git-http-backend",
    "/usr/lib/git-core/git-http-fetch",
    "/usr/lib/git-core/git-http-push",
    "/usr/lib/git-core/git-imap-send",
    "/usr/lib/git-core/git-shell",
    "/usr/lib/git-core/scalar",
    "/usr/share/bash-completion/*",
    "/usr/share/doc/*",
    "/usr/share/doc-base/*",
    "/usr/share/gitweb/*",
    "/usr/share/info/*",
    "/usr/share/lintian/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/zoneinfo/posix/*",  # the same zones again
    "/usr/share/zoneinfo/right/*",  # with leap seconds, which nobody counts
)

PYTHON = (3, 11)
PYTHON_VERSION = ".".join(map(str, PYTHON))
PYTHON_PATH = "/usr/bin/python3"
# Debian 12 has glibc 2.36.
UV_PLATFORM = "x86_64-manylinux_2_36"

# All times in the image: the day Debian 12 came out. Not 0, since zip archives made of files
# older than 1980 are refused by zipfile.
EPOCH_S = 1686355200
UUID = "746f7270-6f72-4000-8000-000000000001"

AGENT_UID = 1000
DEPS_DIRECTORY = "/opt/deps"
GUEST_DIRECTORY = "/torpor"

# Run by mmdebstrap as (possibly namespaced) root with the new root directory as $1. What it
# leaves in $1/tmp/torpor is copied out: so it works without root on the host, too.
#
# .pyc files are made anew with hashes that are not checked: the normal ones hold the source's
# modification time, which is fixed afterwards, and Python would compile every module again
# at each import. They lack the columns of instructions, a quarter of a compressed module and so of
# what an import adds to the next snapshot: all they do is underline a part of a line in
# tracebacks. (Those of agents and of what they depend on have them.)
SCRIPT = f"""\
set -eu
root=$1
out=$root/tmp/torpor
mkdir -m 777 "$out"

cd "$out"
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
kernel=$(apt-cache depends {KERNEL_PACKAGE} | sed -n 's/.*Depends: //p' | head -n 1)
apt-get download "$kernel" busybox-static >&2
unset APT_CONFIG
mv linux-image-*.deb linux.deb
mv busybox-static_*.deb busybox.deb

chroot "$root" dpkg --purge --force-depends {" ".join(PURGED)} >&2
chroot "$root" dpkg-query -W -f '${{Package}} ${{Version}}\\n' > packages.txt
echo "$kernel" > kernel.txt

echo 'agent:x:{AGENT_UID}:{AGENT_UID}::/home/agent:/bin/bash' >> "$root/etc/passwd"
echo 'agent:x:{AGENT_UID}:' >> "$root/etc/group"
echo 'agent:!:1::::::' >> "$root/etc/shadow"
chroot "$root" install -d -o agent -g agent /home/agent /home/agent/app /home/agent/work
mkdir -p "$root{DEPS_DIRECTORY}" "$root{GUEST_DIRECTORY}"
ln -sf python3 "$root/usr/bin/python"
# The agent's Python finds its dependencies, and so does each that it starts.
echo 'import site; site.addsitedir("{DEPS_DIRECTORY}")' \\
    > "$root/usr/local/lib/python{PYTHON_VERSION}/dist-packages/torpor.pth"
ln -sf ../../bin/git "$root/usr/lib/git-core/git"  # the same 4 MB again

cd "$root"
find usr/lib/python3 usr/lib/python{PYTHON_VERSION} -name __pycache__ -prune -exec rm -rf {{}} +
chroot . python3 -X no_debug_ranges -m compileall -q -f --invalidation-mode unchecked-hash \\
    /usr/lib/python3 /usr/lib/python{PYTHON_VERSION}

rm -rf etc/apt var/lib/apt var/log/* var/cache/* var/lib/dpkg/info usr/share/perl
rm -f etc/*- var/lib/dpkg/*-old etc/dpkg/dpkg.cfg.d/* etc/machine-id etc/resolv.conf
echo torpor > etc/hostname
printf '127.0.0.1 localhost torpor\\n::1 localhost\\n' > etc/hosts
: > etc/machine-id
: > etc/resolv.conf

mkfs.erofs --quiet -T{EPOCH_S} -U{UUID} -x-1 -Enoinline_data \\
    '--exclude-regex=^(dev|proc|run|sys|tmp)/' "$out/root.erofs" "$root" >&2
"""


def mirror() -> str:
    return os.environ.get("TORPOR_DEBIAN_MIRROR") or "http://deb.debian.org/debian"


# Counts changes in how `build` arranges what the script makes.
LAYOUT = 2


def digest() -> str:
    """Name of the recipe. The mirror is not part of it: mirrors hold the same packages."""
    facts = [LAYOUT, SUITE, KERNEL_PACKAGE, PACKAGES, PATHS_EXCLUDED, SCRIPT]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def environment() -> dict[str, str]:
    """What `command` needs in its environment."""
    return {"SOURCE_DATE_EPOCH": str(EPOCH_S), "TORPOR_SCRIPT": SCRIPT}


def command(out: str) -> list[str]:
    """Makes the root and leaves `torpor/` with root.erofs, two .debs and two lists in `out`."""
    return [
        "mmdebstrap",
        "--variant=essential",
        "--architectures=amd64",
        "--format=null",
        "--skip=cleanup",  # what it would clean is gone already
        f"--keyring={KEYRING}",
        f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt=path-exclude={path}" for path in PATHS_EXCLUDED),
        # In the environment: mmdebstrap repeats the text of a hook in whatever it says.
        '--customize-hook=sh -c "$TORPOR_SCRIPT" script "$1"',
        f"--customize-hook=copy-out /tmp/torpor {out}",
        SUITE,
        "/dev/null",
        mirror(),
    ]
