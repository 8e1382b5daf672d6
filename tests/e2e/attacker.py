# /// script
# requires-python = ">=3.11"
# [tool.torpor]
# memory = "256M"
# disk = "128M"
# freeze_on_model_wait = false
# [[tool.torpor.egress]]
# host = "allowed.example"
# port = 18444
# paths = ["/v1/**"]
# methods = ["GET", "POST"]
# secret = "ATTEMPTS_TOKEN"
# [[tool.torpor.egress]]
# host = "recorded.example"
# port = 18444
# record = true
# secret = "ATTEMPTS_TOKEN"
# [[tool.torpor.egress]]
# host = "elsewhere.example"
# port = 18444
# secret = "ATTEMPTS_TOKEN"
# [[tool.torpor.egress]]
# host = "torpor.example"
# port = 18445
# protocol = "http"
# [[tool.torpor.egress]]
# host = "inside.example"
# ///
"""The agent of `test_e2e_attempts`: it tries to get out of its machine, into the host, or at the
secret that its requests are given, by all means that a user without rights has."""

import contextlib
import ctypes
import errno
import json
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torpor

PTRACE_ATTACH, PTRACE_SEIZE = 16, 0x4206

libc = ctypes.CDLL(None, use_errno=True)
ALLOWED = "https://allowed.example:18444"
INSIDE = "inside.example"  # a name that leads to the host; the test puts it in

Outcome = str
Tried = dict[str, Outcome]


def outcome(attempt: Callable[[], Any]) -> Outcome:
    """What it gave: a value, or the error."""
    try:
        value = attempt()
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "")
        return f"{type(error).__name__} {name or error}".strip()
    except Exception as error:
        return f"{type(error).__name__} {error}"
    return str(value)


def call(name: str, *arguments: Any) -> int:
    """A call of libc's. Raises OSError."""
    result: int = getattr(libc, name)(*arguments)
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result


# The network.


def fetch(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, named, method=method)
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            return f"{response.status} {response.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"


def secure(host: str = "allowed.example", name: str | None = None) -> ssl.SSLSocket:
    connection = socket.create_connection((host, 18444), timeout=60)
    return ssl.create_default_context().wrap_socket(connection, server_hostname=name or host)


def say(request: str, host: str = "allowed.example", name: str | None = None) -> Outcome:
    """Over TLS, byte for byte as it is here."""
    with secure(host, name) as client:
        client.sendall(request.encode("latin-1"))
        return read_all(client)


def say_plainly(request: str, address: tuple[str, int]) -> Outcome:
    with socket.create_connection(address, timeout=60) as client:
        client.sendall(request.encode("latin-1"))
        return read_all(client)


def read_all(client: socket.socket) -> str:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(4096):
            data += piece
    return data.decode("latin-1") if data else "closed"


def get(target: str, *lines: str, host: str = "allowed.example:18444") -> str:
    return "\r\n".join([f"GET {target} HTTP/1.1", f"host: {host}", *lines, "connection: close"]) + (
        "\r\n\r\n"
    )


def connect(address: str, port: int) -> Outcome:
    with socket.create_connection((address, port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return read_all(client)


def send_datagram(address: str, port: int) -> Outcome:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.connect((address, port))
        client.send(b"\xc0\0\0\0\x01" + bytes(1200))  # a first packet of QUIC, about
        client.recv(1)
    return "answered"


def open_socket(family: int, kind: int, protocol: int = 0) -> Outcome:
    with socket.socket(family, kind, protocol):
        return "opened"


def ping() -> Outcome:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as client:
        client.settimeout(2)
        client.sendto(b"\x08\0\0\0\0\1\0\1", ("8.8.8.8", 0))
        client.recv(1)
    return "answered"


def route() -> Outcome:
    """`ip route del local default dev lo table local`."""
    message = bytes([socket.AF_INET, 0, 0, 0, 255, 3, 254, 2, 0, 0, 0, 0])
    header = (16 + len(message)).to_bytes(4, "little") + bytes([25, 0, 5, 0, 1, 0, 0, 0]) + bytes(4)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(5)
        netlink.send(header + message)
        code = int.from_bytes(netlink.recv(4096)[16:20], "little", signed=True)
    if code:
        raise OSError(-code, "route")
    return "changed"


def bind(address: str, port: int, *, share: bool = False) -> Outcome:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
        listener.listen()
    return "bound"


def network() -> Tried:
    """What is tried again after a thaw, and after a recovery."""
    ours, theirs = "allowed.example:18444", "93.184.216.34"
    echo = f"{ALLOWED}/v1/echo"
    raw = socket.SOCK_RAW
    tries: dict[str, Callable[[], Any]] = {
        "00 what a rule allows": lambda: fetch(f"{ALLOWED}/v1/hello"),
        "01 name": lambda: connect("unlisted.example", 443),
        "01 sni": lambda: say(get("/v1/hello"), name="unlisted.example"),
        "01 connect": lambda: say(get(ours).replace("GET", "CONNECT", 1)),
        "02 nul": lambda: say(get("/v1/hello", host=f"evil.com\0.{ours}")),
        "02 nul looked up": lambda: connect("evil.com\0.allowed.example", 443),
        "05 host": lambda: say(get("/v1/hello", host="unlisted.example")),
        "06 absolute": lambda: say(get("https://unlisted.example/v1/hello")),
        "07 port": lambda: connect("allowed.example", 18445),
        "07 port 443": lambda: fetch("https://allowed.example/v1/hello"),
        "08 plain": lambda: fetch("http://allowed.example/v1/hello"),
        "08 plain at the port": lambda: say_plainly(get("/v1/hello"), ("allowed.example", 18444)),
        "09 plain": lambda: say_plainly(get("/v1/hello", host=ours), (theirs, 80)),
        "12 path": lambda: say(get("/v1/../admin")),
        "13 method": lambda: fetch(f"{ALLOWED}/v1/hello", "DELETE"),
        "13 trace": lambda: fetch(f"{ALLOWED}/v1/hello", "TRACE"),
        "14 both": lambda: say(get("/v1/a", "content-length: 5", "transfer-encoding: chunked")),
        "17 h2c": lambda: say(get("/v1/hello", "upgrade: h2c", "connection: upgrade")),
        "18 literal": lambda: connect(theirs, 80),
        "18 decimal": lambda: connect("1572395042", 80),
        "18 octal": lambda: connect("0135.0270.0330.042", 80),
        "18 hex": lambda: connect("0x5db8d822", 80),
        "18 tls": lambda: connect(theirs, 443),
        "18 mapped": lambda: connect("::ffff:93.184.216.34", 80),
        "18 another port": lambda: connect(theirs, 5432),
        "18 v6": lambda: connect("2606:4700::1111", 443),
        "19 metadata": lambda: fetch("http://169.254.169.254/latest/meta-data/"),
        "19 metadata v6": lambda: connect("fd00:ec2::254", 80),
        "19 named": lambda: fetch("http://metadata.google.internal/", Metadata_Flavor="Google"),
        "20 inside": lambda: fetch(f"https://{INSIDE}/"),
        "24 icmp": ping,
        "24 raw": lambda: open_socket(socket.AF_INET, raw, socket.IPPROTO_ICMP),
        "24 packet": lambda: open_socket(socket.AF_PACKET, raw, 0x300),
        "24 vsock": lambda: outcome(lambda: socket.socket(40, socket.SOCK_STREAM).connect((2, 1))),
        "24 udp": lambda: send_datagram("8.8.8.8", 53),
        "24 quic": lambda: send_datagram(theirs, 443),
        "24 quic allowed": lambda: send_datagram(socket.gethostbyname("allowed.example"), 443),
        "24 udp v6": lambda: send_datagram("2001:4860:4860::8888", 53),
        "25 ports": lambda: fetch("http://torpor.example:18445/"),
        "26 redirect": lambda: fetch(f"{ALLOWED}/v1/redirect"),
        "27 key": lambda: fetch(echo, Authorization="Bearer of-an-attacker", X_Shown="sent"),
        "28 echo": lambda: fetch(f"{ALLOWED}/v1/echo-secret"),
        "28 echo in base 64": lambda: fetch(f"{ALLOWED}/v1/echo-secret?as=base64"),
        "28 echo in a header": lambda: fetch(f"{ALLOWED}/v1/echo-secret?as=header"),
        "28 echo in two pieces": lambda: fetch(f"{ALLOWED}/v1/echo-secret?as=pieces"),
        "30 elsewhere": lambda: fetch("https://elsewhere.example:18444/"),
    }
    return {name: outcome(attempt) for name, attempt in tries.items()}


# The machine.


def others() -> dict[str, int]:
    """The supervisor, and the gateway."""
    found = {"supervisor": 1}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if re.search(r"^Uid:\t1001", path.read_text(), re.MULTILINE):
                found["gateway"] = int(path.parent.name)
    return found


def read(path: str) -> Outcome:
    with open(path, "rb") as file:  # noqa: PTH123 - as an attacker would
        return f"read {len(file.read(16))} bytes"


def peek(pid: int) -> Outcome:
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_size_t * 2)(0x400000, 8)
    return f"read {call('process_vm_readv', pid, here, 1, there, 1, 0)}"


def look_into(who: str, pid: int) -> dict[str, Callable[[], Any]]:
    at = Path(f"/proc/{pid}")
    tries: dict[str, Callable[[], Any]] = {
        what: partial(read, str(at / what))
        for what in ("mem", "environ", "maps", "auxv", "io", "syscall", "stack")
    }
    tries |= {what: partial(listed, at / what) for what in ("fd", "map_files", "root", "cwd")}
    tries |= {
        "ns/net": partial(os.readlink, at / "ns/net"),
        "ptrace": partial(call, "ptrace", PTRACE_ATTACH, pid, 0, 0),
        "seize": partial(call, "ptrace", PTRACE_SEIZE, pid, 0, 0),
        "process_vm_readv": partial(peek, pid),
        "pidfd_getfd": lambda: call("syscall", 438, os.pidfd_open(pid), 3, 0),
        "setpriority": partial(os.setpriority, os.PRIO_PROCESS, pid, 19),
        "prlimit": partial(resource.prlimit, pid, resource.RLIMIT_NOFILE, (0, 0)),
    }
    for kind in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):
        tries[kind.name] = partial(os.kill, pid, kind)
    return {f"46 {who} {what}": attempt for what, attempt in tries.items()}


def listed(path: Path) -> list[str]:
    return [each.name for each in path.iterdir()]


def processes() -> Tried:
    tries: dict[str, Callable[[], Any]] = {}
    for who, pid in others().items():
        tries |= look_into(who, pid)
    ports = sorted(Path("/dev").glob("vport*"))
    assert ports
    for number, port in enumerate(ports):
        tries[f"46 port {number}"] = partial(os.open, port, os.O_RDWR)
    for device in ("/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/vdb", "/dev/port", "/proc/kcore"):
        tries[f"46 {device}"] = partial(os.open, device, os.O_RDWR)
    tries["46 inherited"] = inherited
    tries["46 files of the gateway"] = lambda: find("/run", "/tmp", "-name", "leaf.pem")
    return {name: outcome(attempt) for name, attempt in tries.items()}


INHERITED = """
import os
for name in os.listdir("/proc/self/fd"):
    path = f"/proc/self/fd/{name}"
    if int(name) > 2 and os.path.exists(path):
        print(os.readlink(path))
"""


def inherited() -> list[str]:
    """What a process gets that this one starts and closes nothing for."""
    command = [sys.executable, "-c", INHERITED]
    done = subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True)
    return done.stdout.split()


def remount() -> int:
    return call("mount", b"none", b"/mnt", b"tmpfs", 0, None)


def find(*arguments: str) -> list[str]:
    """What `find` finds."""
    done = subprocess.run(["find", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.split()


def writable_of_others() -> list[str]:
    """What others load or read, and this user could write: code, settings, certificates."""
    own = str(Path.cwd())
    roots = {"/etc", "/usr", "/boot", "/run", "/opt", "/srv", "/var", *filter(None, sys.path)}
    roots = {root for root in roots if Path(root).exists() and not root.startswith(own)}
    found = find(*sorted(roots), "-writable", "!", "-type", "l", "!", "-type", "c")
    return [path for path in found if not path.startswith((own, "/var/tmp"))]


def keys() -> Outcome:
    """Keys of others in the kernel's keyrings."""
    return str(
        [line for line in Path("/proc/keys").read_text().splitlines() if " 1000 " not in line]
    )


def kernel() -> Tried:
    tries: dict[str, Callable[[], Any]] = {
        "47 user namespace": lambda: subprocess.run(
            ["unshare", "-U", "true"], capture_output=True, check=True
        ),
        "47 net namespace": lambda: call("unshare", 0x40000000),
        "47 mount namespace": lambda: call("unshare", 0x00020000),
        "47 pid namespace": lambda: call("unshare", 0x20000000),
        "47 user and net namespace": lambda: subprocess.run(
            ["unshare", "-Urn", "true"], capture_output=True, check=True
        ),
        "47 mount": remount,
        "47 bind mount": lambda: call("mount", b"/tmp", b"/etc", None, 4096, None),
        "47 pivot_root": lambda: call("syscall", 155, b"/tmp", b"/tmp"),
        "47 chroot": lambda: os.chroot("/tmp"),
        "47 setuid": lambda: os.setuid(0),
        "47 setgid": lambda: os.setgroups([0]),
        "47 su": lambda: subprocess.run(
            ["su", "-c", "id"], stdin=subprocess.DEVNULL, capture_output=True, check=True
        ),
        "47 no new privileges": lambda: call("prctl", 39, 0, 0, 0, 0),
        "47 keys": keys,
        "47 abstract sockets": lambda: re.findall(r"@\S+", Path("/proc/net/unix").read_text()),
        "47 shared memory": partial(listed, Path("/dev/shm")),
        "47 bpf": lambda: call("syscall", 321, 0, 0, 0),
        "47 module": lambda: call("syscall", 313, 0, b"", 0),
        "47 kexec": lambda: call("syscall", 246, 0, 0, 0, 0),
        "47 cgroup": lambda: Path("/sys/fs/cgroup/cgroup.procs").write_text(str(os.getpid())),
        "47 own limits": lambda: [
            path.write_text("max") for path in Path("/sys/fs/cgroup").rglob("agent/memory.max")
        ],
        "24 resolv.conf": lambda: Path("/etc/resolv.conf").write_text("nameserver 8.8.8.8\n"),
        "24 hosts": lambda: Path("/etc/hosts").write_text("127.0.0.1 allowed.example\n"),
        "24 routes": route,
        "24 in front of https": lambda: bind(socket.gethostbyname("allowed.example"), 443),
        "24 in front of the rule's port": lambda: bind(
            socket.gethostbyname("allowed.example"), 18444, share=True
        ),
        "24 in front of dns": lambda: bind("127.0.0.1", 53, share=True),
        "24 in front of the model": lambda: bind("127.0.0.1", 8400, share=True),
        "49 left for others": writable_of_others,
        "50 clock": lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
        "50 sysrq": lambda: Path("/proc/sysrq-trigger").write_text("c"),
        "50 settings": lambda: Path("/proc/sys/kernel/panic").write_text("1"),
        "50 reboot": lambda: call("reboot", 0x1234567),
        "50 swap": lambda: call("swapoff", b"/dev/vdb"),
        "50 host name": lambda: socket.sethostname("evil"),
    }
    return {name: outcome(attempt) for name, attempt in tries.items()}


def publish() -> Tried:
    """Artifacts that are something else."""
    work = Path("published")
    work.mkdir()
    (work / "secret-link").symlink_to("/etc/shadow")
    (work / "memory-link").symlink_to("/proc/1/mem")
    (work / "above").symlink_to("/")
    os.mkfifo(work / "pipe")
    sparse = work / "sparse"
    with sparse.open("wb") as file, contextlib.suppress(OSError):
        file.truncate(1 << 40)
    with sparse.open("ab") as file, contextlib.suppress(OSError):
        file.truncate(2 << 30)
    (work / "listening").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(work / "listening"))
    tries: dict[str, Callable[[], Any]] = {
        "48 symlink": lambda: torpor.artifact(work / "secret-link"),
        "48 symlink to memory": lambda: torpor.artifact(work / "memory-link"),
        "48 directory": lambda: torpor.artifact(work / "above"),
        "48 fifo": lambda: torpor.artifact(work / "pipe"),
        "48 socket": lambda: torpor.artifact(work / "listening"),
        "48 device": lambda: torpor.artifact(Path("/dev/zero"), name="zero"),
        "48 name above": lambda: torpor.artifact(name="../../torpor.db", data=b"x"),
        "48 absolute name": lambda: torpor.artifact(name="/etc/cron.d/x", data=b"x"),
        "48 name with nul": lambda: torpor.artifact(name="a\0b", data=b"x"),
        "48 sparse": lambda: torpor.artifact(sparse),
    }
    tried = {name: outcome(attempt) for name, attempt in tries.items()}
    listener.close()
    return tried


# More than the machine has, of everything. Nothing of this returns if the supervisor dies.

# Whoever is to be killed for want of memory is the attack, and not the agent.
FIRST = "echo 1000 > /proc/self/oom_score_adj;"
HOG = "held = [bytearray(1 << 20) for _ in range(4096)]"
BOMB = f"{FIRST} while :; do sleep 600 & done"


def hog() -> Tried:
    """More memory than there is."""
    command = ["sh", "-c", f'{FIRST} exec "$0" -c "{HOG}"', sys.executable]
    ended = subprocess.run(command, capture_output=True, check=False).returncode
    return {"50 memory": str(ended), "50 after the hog": outcome(lambda: alive("after it"))}


def bomb() -> Tried:
    """More processes than there may be."""
    process = subprocess.Popen(
        ["sh", "-c", BOMB], start_new_session=True, stderr=subprocess.DEVNULL
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(4)
    during = outcome(lambda: alive("while it goes on"))
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return {"50 during the fork bomb": during}


def crowd() -> Tried:
    tried = {
        "50 disk": outcome(fill),
        "50 descriptors": outcome(partial(hold_many, socket.socket, 1 << 20)),
        "50 connections": outcome(partial(hold_many, connection, 300)),
    }
    subprocess.Popen(["sh", "-c", "setsid sleep 3600 & exit 0"]).wait()
    return tried | {
        "50 afterwards": outcome(lambda: alive("afterwards")),
        "50 network afterwards": outcome(lambda: fetch(f"{ALLOWED}/v1/hello")),
    }


EXHAUSTING = (hog, bomb, crowd)


def fill() -> None:
    filler = Path("filler")
    try:
        with filler.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
    finally:
        filler.unlink()


def connection() -> socket.socket:
    return socket.create_connection(("allowed.example", 18444), timeout=5)


def hold_many(make: Callable[[], socket.socket], count: int) -> int:
    with contextlib.ExitStack() as held:
        for _ in range(count):
            held.enter_context(make())
    return count


@torpor.step
def alive(when: str) -> str:
    return f"alive {when}"


@torpor.agent
def attacker() -> None:
    for attempts in (network, processes, kernel, publish, *EXHAUSTING):
        torpor.emit({attempts.__name__: attempts()})
    torpor.approve("go on after a sleep?")
    torpor.emit({"thawed": network()})
    hold()
    torpor.emit({"recovered": network()})


@torpor.step
def hold() -> str:
    """Until the test lets it: the machine is lost meanwhile."""
    return fetch(f"{ALLOWED}/v1/hold")


# The search for the secret (attempt 33).


def stream(number: int) -> list[str]:
    """A streamed answer, by a client of the standard library's."""
    request = urllib.request.Request(
        f"https://recorded.example:18444/stream?n={number}",
        json.dumps({"n": number}).encode(),
        {"content-type": "application/json", "authorization": "Bearer placeholder"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return [line.decode().strip() for line in response if line.strip()]


@torpor.agent
def keeper(freezes: int) -> dict[str, Any]:
    lines = []
    for number in range(freezes):
        lines.append(stream(number))
        fetch(f"{ALLOWED}/v1/hello")
        outcome(partial(fetch, f"{ALLOWED}/v1/echo-secret"))
        torpor.approve(f"go on after {number}?")
    print("about to crash")
    hold()
    return {"lines": lines, "environment": dict(os.environ)}
