"""Run as a script between fork and QEMU: `python -I -S launch.py PARENT QEMU ARGS…`.

Two things must be set in the process that becomes QEMU, and doing them between fork and exec of
a threaded server is not safe:

- it dies with its parent (PR_SET_PDEATHSIG): a machine whose server is gone has no link, and a
  later epoch may be started at once (rule 4);
- madvise(MADV_HUGEPAGE) is refused to it (a seccomp filter): QEMU asks for huge pages for guest
  memory, and then each miss on the pager's file reads one or two MiB instead of a frame.
  QEMU goes on without them.
"""

import ctypes
import os
import signal
import struct
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
MADV_HUGEPAGE = 14

# Classic BPF over struct seccomp_data (linux/seccomp.h): nr at 0, arch at 4, args[2] at 32.
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO_EINVAL = 0x7FFF0000, 0x00050000 | 22
AUDIT_ARCH_X86_64, SYS_MADVISE = 0xC000003E, 28
FILTER = (
    (LOAD, 0, 0, 4),
    (JUMP_EQUAL, 0, 5, AUDIT_ARCH_X86_64),
    (LOAD, 0, 0, 0),
    (JUMP_EQUAL, 0, 3, SYS_MADVISE),
    (LOAD, 0, 0, 32),
    (JUMP_EQUAL, 0, 1, MADV_HUGEPAGE),
    (RETURN, 0, 0, ERRNO_EINVAL),
    (RETURN, 0, 0, ALLOW),
)


def main() -> None:
    parent, argv = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    program = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *op) for op in FILTER))
    header = struct.pack("<HxxxxxxQ", len(FILTER), ctypes.addressof(program))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Only speed depends on the filter: where the kernel refuses it, QEMU runs all the same.
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(header), 0, 0)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
