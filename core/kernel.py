"""Landlock and seccomp, through which a process without privileges gives up rights for good. Linux only, by ctypes.

Landlock (landlock(7)) takes away paths, TCP ports and signals to processes outside; seccomp (seccomp(2)) all system
calls but a few. Both need `no_new_privs`, which is set here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from itertools import starmap

PR_SET_NO_NEW_PRIVS, PR_GET_SECCOMP, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 21, 22, 2  # <linux/prctl.h>
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
READING = 0b1101  # EXECUTE, READ_FILE, READ_DIR
PATH_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # Landlock's version -> how many rights over paths it knows
TCP, SCOPES = 0b11, 0b11  # bind, connect (version 4); abstract sockets, signals (version 6)

ALLOW, EPERM, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # what a filter returns
LOAD, IS_EQUAL, RETURN = 0x20, 0x15, 0x06  # of <linux/bpf_common.h>: BPF_LD | BPF_W | BPF_ABS and so on
CALLS = """
    read write close lseek fstat mmap mprotect munmap mremap madvise brk futex getrandom clock_gettime
    clock_nanosleep gettimeofday getpid gettid getuid geteuid getgid getegid getcwd rt_sigaction rt_sigprocmask
    rt_sigreturn sigaltstack sched_yield sched_getaffinity exit exit_group restart_syscall
    """
MACHINES = {  # name -> AUDIT_ARCH_..., and the numbers of CALLS there
    "x86_64": (
        0xC000003E,
        "0 1 3 8 5 9 10 11 25 28 12 202 318 228 230 96 39 186 102 107 104 108 79 13 14 15 131 24 204 60 231 219",
    ),
    "aarch64": (
        0xC00000B7,
        "63 64 57 62 80 222 226 215 216 233 214 98 278 113 115 169 172 178 174 175 176 177 17 134 135 139 132 124 123"
        " 93 94 128",
    ),
}


class _Ruleset(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("paths", "ports", "scopes")]


class _Below(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("if_so", ctypes.c_uint8),
        ("if_not", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction))]


def landlock_version() -> int:
    """0 where the kernel, or a container around this process, has none."""
    return max(0, _call(CREATE_RULESET, None, 0, 1)) if sys.platform == "linux" else 0


def has_seccomp() -> bool:
    return sys.platform == "linux" and platform.machine() in MACHINES and libc().prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0


def give_up_files(*, reading: bool) -> bool:
    """From now on no path can be changed, made or removed, no TCP port used, and no process outside gets a signal.

    Args:
        reading: whether files and folders may still be read.

    Returns: False where the kernel has no Landlock; then nothing has changed.
    """
    if not (version := landlock_version()):
        return False
    rights = (1 << max(n for since, n in PATH_RIGHTS.items() if since <= version)) - 1
    ruleset = _Ruleset(rights, TCP if version >= 4 else 0, SCOPES if version >= 6 else 0)
    fields = 1 + (version >= 4) + (version >= 6)  # of the struct that this version reads
    size = 8 * fields
    number = _call(CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        if reading:
            root = os.open("/", os.O_PATH)
            _call(ADD_RULE, number, 1, ctypes.byref(_Below(READING, root)), 0)
            os.close(root)
        libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return _call(RESTRICT_SELF, number, 0) == 0
    finally:
        os.close(number)


def give_up_calls() -> bool:
    """From now on every system call but those of CALLS fails with EPERM. Returns: False where there is no seccomp."""
    if not has_seccomp():
        return False
    architecture, numbers = MACHINES[platform.machine()]
    allowed = list(map(int, numbers.split()))
    steps = [(LOAD, 0, 0, 4), (IS_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for i, number in enumerate(allowed):
        steps.append((IS_EQUAL, len(allowed) - i, 0, number))
    steps += [(RETURN, 0, 0, EPERM), (RETURN, 0, 0, ALLOW)]
    program = _Program(len(steps), (_Instruction * len(steps))(*starmap(_Instruction, steps)))
    libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return libc().prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0


def libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    """-1 on failure."""
    return libc().syscall(ctypes.c_long(number), *map(_as_long, arguments))


def _as_long(value: object) -> object:
    return ctypes.c_long(value) if isinstance(value, int) else value
