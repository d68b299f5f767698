"""A kernel without iptables' legacy tables (CONFIG_NETFILTER_XTABLES_LEGACY), played for a command and its children.

As a program it runs the command that its arguments are, under a seccomp filter: the socket options by which libiptc
reads and writes those tables answer ENOPROTOOPT, as in a kernel that does not know them. It is not the whole of such a
kernel: /proc/net/ip_tables_names still exists, and rules that are already in the tables stay in force.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

WRAPPER = (sys.executable, "-IS", os.path.abspath(__file__))  # noqa: PTH100 (pathlib takes longer than the command)

_CALLS = {"x86_64": (54, 55), "aarch64": (208, 209)}  # setsockopt, getsockopt
_LEVELS = (0, 41)  # IPPROTO_IP, IPPROTO_IPV6
_OPTIONS = (64, 65)  # IPT_SO_GET_INFO and IPT_SO_SET_REPLACE; IPT_SO_GET_ENTRIES and IPT_SO_SET_ADD_COUNTERS
# linux/bpf_common.h, linux/seccomp.h, linux/prctl.h
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000
_CALL, _LEVEL, _OPTION = 0, 24, 32  # offsets in struct seccomp_data: nr, args[1], args[2]
_PR_SET_SECCOMP, _FILTER = 22, 2
_INSTRUCTION = struct.Struct("=HBBI")


def _program() -> bytes:
    """Each pair of values is a test: the first or the second goes on, others are allowed."""
    steps = []
    for offset, values in ((_CALL, _CALLS[platform.machine()]), (_LEVEL, _LEVELS), (_OPTION, _OPTIONS)):
        steps += [(_LOAD, 0, 0, offset), (_EQUAL, 2, 0, values[0]), (_EQUAL, 1, 0, values[1])]
        steps.append((_RETURN, 0, 0, _ALLOW))
    steps.append((_RETURN, 0, 0, _ERROR | errno.ENOPROTOOPT))
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


def refuse() -> None:
    """Refuse the legacy tables to this process and its children, for ever."""
    program = _program()
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // _INSTRUCTION.size, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _FILTER, fprog, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    refuse()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606 (no shell: a list of arguments)
