"""Which QEMU is here, and does KVM really run an ordinary kernel?

`/dev/kvm` that opens proves nothing: some hosts have it and no ordinary kernel runs under it. So
the guest's own kernel is booted under KVM until it starts its first program, within a time
limit; any other outcome means emulation. The answer is kept per host and per what it depends on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from torpor.core.errors import Missing

BINARY = "qemu-system-x86_64"
KVM_DEVICE = Path("/dev/kvm")
KVM_BOOT_LIMIT_S = 10.0
_BOOTED = b"Run /init as init process"


@dataclass(frozen=True)
class Probe:
    """What was found. `why` says it in words for `torpor doctor`."""

    binary: str
    version: str
    accel: str  # "kvm" | "tcg"
    why: str
    tsc_khz: int | None


def find_qemu() -> tuple[str, str]:
    """Path and version of QEMU. Raises Missing."""
    binary = shutil.which(BINARY)
    if binary is None:
        raise Missing(
            f"{BINARY} is not installed",
            hint="torpor setup installs it.",
        )
    try:
        printed = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=20)
        output = (printed.stdout + printed.stderr).strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        output = str(error)
    found = re.search(r"version (\d+(?:\.\d+)+)", output)
    if found is None:
        raise Missing(
            f"{binary} --version said {output[:200]!r}",
            hint="apt-get install --reinstall qemu-system-x86",
        )
    return binary, found.group(1)


def probe(kernel: Path, initramfs: Path, cache: Path) -> Probe:
    """Find QEMU and choose its accelerator; `cache` is a directory for the answer."""
    binary, version = find_qemu()
    fingerprint = hashlib.sha256(
        json.dumps(
            [binary, version, str(kernel), platform.release(), _host(), _kvm_refusal()]
        ).encode()
    ).hexdigest()[:16]
    answer = cache / f"probe-{fingerprint}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Probe(**json.loads(answer.read_text()))
    accel, why = _choose(binary, kernel, initramfs)
    found = Probe(binary, version, accel, why, host_tsc_khz())
    fresh = answer.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(json.dumps(asdict(found)))
    fresh.replace(answer)
    return found


def _choose(binary: str, kernel: Path, initramfs: Path) -> tuple[str, str]:
    if refusal := _kvm_refusal():
        return "tcg", f"emulation: {refusal}"
    started = time.monotonic()
    outcome = _boots_under_kvm(binary, kernel, initramfs)
    took = time.monotonic() - started
    if outcome is None:
        return "kvm", f"KVM: a kernel booted under it in {took:.1f} s"
    return "tcg", f"emulation: {KVM_DEVICE} opens, but {outcome}"


def _kvm_refusal() -> str:
    """Why KVM need not even be tried, or ""."""
    if not KVM_DEVICE.exists():
        return f"there is no {KVM_DEVICE}"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"{KVM_DEVICE} may not be opened by this user (join the group kvm)"
    return ""


def _boots_under_kvm(binary: str, kernel: Path, initramfs: Path) -> str | None:
    """None if the kernel reached its first program under KVM, else what happened."""
    with tempfile.TemporaryDirectory(prefix="torpor-probe-") as directory:
        console = Path(directory) / "console"
        argv = [binary, "-nodefaults", "-no-user-config", "-nographic", "-no-reboot"]
        argv += ["-M", "microvm,pit=off,pic=off,rtc=off", "-accel", "kvm", "-cpu", "host"]
        argv += ["-m", "192", "-kernel", str(kernel), "-initrd", str(initramfs)]
        argv += ["-append", "console=ttyS0 loglevel=7 panic=-1 reboot=t torpor.probe"]
        argv += ["-serial", f"file:{console}"]
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            deadline = time.monotonic() + KVM_BOOT_LIMIT_S
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    if _BOOTED in console.read_bytes():
                        return None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.05)
                    output = (process.stderr.read() if process.stderr else b"").decode(
                        errors="replace"
                    )
                    first = output.strip().partition("\n")[0]
                    return f"QEMU ended with code {process.returncode}: {first[:200]}"
            return f"no kernel had booted under it after {KVM_BOOT_LIMIT_S:.0f} s"
        finally:
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


def host_tsc_khz() -> int | None:
    """Rate of the host's time stamp counter, which an emulated guest sees unchanged.

    Where the counter's rate is constant, Linux derives BogoMIPS from it: two per MHz.
    """
    with contextlib.suppress(OSError):
        info = Path("/proc/cpuinfo").read_text()
        found = re.search(r"^bogomips\s*:\s*([\d.]+)$", info, re.MULTILINE)
        if found and re.search(r"^flags\s*:.*\bconstant_tsc\b", info, re.MULTILINE):
            return round(float(found.group(1)) * 500)
    return None


def _host() -> str:
    with contextlib.suppress(OSError):
        return Path("/etc/machine-id").read_text().strip()
    return platform.node()
