"""The system calls that sandboxed code may make: a seccomp filter, which needs no library.

What is not named here fails with EPERM: sockets, other programs, mounts, namespaces, tracing, keys, BPF,
io_uring, shared memory that no limit counts, and whatever a later kernel adds.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from codex_ray.sandbox import kernel

# Numbers on x86-64 and arm64, from the kernel's headers.
# fmt: off
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "access": (21, None), "alarm": (37, None), "arch_prctl": (158, None), "brk": (12, 214),
    "capget": (125, 90), "chdir": (80, 49), "chmod": (90, None), "clock_getres": (229, 114),
    "clock_gettime": (228, 113), "clock_nanosleep": (230, 115), "clone": (56, 220), "clone3": (435, 435),
    "close": (3, 57), "close_range": (436, 436), "copy_file_range": (326, 285), "creat": (85, None),
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "epoll_create": (213, None),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "epoll_wait": (232, None),
    "eventfd": (284, None), "eventfd2": (290, 19), "exit": (60, 93), "exit_group": (231, 94),
    "faccessat": (269, 48), "faccessat2": (439, 439), "fadvise64": (221, 223), "fallocate": (285, 47),
    "fchdir": (81, 50), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "fcntl": (72, 25), "fdatasync": (75, 83), "fgetxattr": (193, 10), "flistxattr": (196, 13),
    "flock": (73, 32), "fork": (57, None), "fstat": (5, 80), "fstatfs": (138, 44), "fsync": (74, 82),
    "ftruncate": (77, 46), "futex": (202, 98), "futex_waitv": (449, 449), "futimesat": (261, None),
    "get_mempolicy": (239, 236), "getcpu": (309, 168), "getcwd": (79, 17), "getdents": (78, None),
    "getdents64": (217, 61), "getegid": (108, 177), "geteuid": (107, 175), "getgid": (104, 176),
    "getgroups": (115, 158), "getitimer": (36, 102), "getpeername": (52, 205), "getpgid": (121, 155),
    "getpgrp": (111, None), "getpid": (39, 172), "getppid": (110, 173), "getpriority": (140, 141),
    "getrandom": (318, 278), "getresgid": (120, 150), "getresuid": (118, 148), "getrlimit": (97, 163),
    "getrusage": (98, 165), "getsid": (124, 156), "getsockname": (51, 204), "getsockopt": (55, 209),
    "gettid": (186, 178), "gettimeofday": (96, 169), "getuid": (102, 174), "getxattr": (191, 8),
    "ioctl": (16, 29), "kill": (62, 129), "lgetxattr": (192, 9), "link": (86, None), "linkat": (265, 37),
    "listxattr": (194, 11), "llistxattr": (195, 12), "lseek": (8, 62), "lstat": (6, None),
    "madvise": (28, 233), "membarrier": (324, 283), "mincore": (27, 232), "mkdir": (83, None),
    "mkdirat": (258, 34), "mmap": (9, 222), "mprotect": (10, 226), "mremap": (25, 216), "msync": (26, 227),
    "munmap": (11, 215), "nanosleep": (35, 101), "newfstatat": (262, 79), "open": (2, None),
    "openat": (257, 56), "pause": (34, None), "pipe": (22, None), "pipe2": (293, 59), "poll": (7, None),
    "ppoll": (271, 73), "prctl": (157, 167), "pread64": (17, 67), "preadv": (295, 69),
    "preadv2": (327, 286), "prlimit64": (302, 261), "pselect6": (270, 72), "pwrite64": (18, 68),
    "pwritev": (296, 70), "pwritev2": (328, 287), "read": (0, 63), "readlink": (89, None),
    "readlinkat": (267, 78), "readv": (19, 65), "recvfrom": (45, 207), "recvmsg": (47, 212),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "restart_syscall": (219, 128),
    "rmdir": (84, None), "rseq": (334, 293), "rt_sigaction": (13, 134), "rt_sigpending": (127, 136),
    "rt_sigprocmask": (14, 135), "rt_sigqueueinfo": (129, 138), "rt_sigreturn": (15, 139),
    "rt_sigsuspend": (130, 133), "rt_sigtimedwait": (128, 137), "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126), "sched_getaffinity": (204, 123), "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120), "sched_yield": (24, 124), "select": (23, None), "sendmsg": (46, 211),
    "sendto": (44, 206), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "setitimer": (38, 103),
    "setpgid": (109, 154), "setrlimit": (160, 164), "setsid": (112, 157), "setsockopt": (54, 208),
    "shutdown": (48, 210), "sigaltstack": (131, 132), "signalfd": (282, None), "signalfd4": (289, 74),
    "socketpair": (53, 199), "stat": (4, None), "statfs": (137, 43), "statx": (332, 291),
    "symlink": (88, None), "symlinkat": (266, 36), "sysinfo": (99, 179), "tgkill": (234, 131),
    "time": (201, None), "timer_create": (222, 107), "timer_delete": (226, 111),
    "timer_getoverrun": (225, 109), "timer_gettime": (224, 108), "timer_settime": (223, 110),
    "timerfd_create": (283, 85), "timerfd_gettime": (287, 87), "timerfd_settime": (286, 86),
    "times": (100, 153), "tkill": (200, 130), "truncate": (76, 45), "umask": (95, 166), "uname": (63, 160),
    "unlink": (87, None), "unlinkat": (263, 35), "utime": (132, None), "utimensat": (280, 88),
    "utimes": (235, None), "vfork": (58, None), "wait4": (61, 260), "waitid": (247, 95), "write": (1, 64),
    "writev": (20, 66),
}
# fmt: on
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_NEW_NAMESPACES = 0x7E020080  # of clone's flags
_UNIX = 1
_OPTIONS = (1, 2, 3, 15, 16, 21, 23, 38, 39, 0x53564D41)  # prctl: names, death signals, what only asks
_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # ioctl: terminals asked about, blocking, exec
_X32 = 0x40000000
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_FILTER_MODE = 2


def program(machine: str) -> bytes:
    """Return the filter for an architecture, as the kernel takes it.

    Raises:
        OSError: the architecture is neither x86-64 nor arm64.
    """
    if machine not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"seccomp: {machine} is neither x86_64 nor aarch64")
    place, mark = ARCHITECTURES[machine]
    number = {name: numbers[place] for name, numbers in _CALLS.items()}
    special = {"clone", "clone3", "socketpair", "prctl", "prlimit64", "ioctl"}
    refused, unknown = _FAIL | errno.EPERM, _FAIL | errno.ENOSYS
    code = [
        *_instructions((_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, mark), (_RETURN, 0, 0, _KILL)),
        *_instructions((_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, refused)),
    ]
    for name, value in number.items():
        if name not in special and value is not None:
            code += _instructions((_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW))
    # Its flags lie in memory, where a filter cannot see them; the C library then takes clone.
    code += _instructions((_EQUAL, 0, 1, number["clone3"]), (_RETURN, 0, 0, unknown))
    code += _if_called(number["clone"], 0, [(_ANY_BIT, 0, 1, _NEW_NAMESPACES)], refused, _ALLOW)
    code += _if_called(number["socketpair"], 0, [(_EQUAL, 0, 1, _UNIX)], _ALLOW, refused)
    code += _if_called(number["prlimit64"], 0, [(_EQUAL, 0, 1, 0)], _ALLOW, refused)  # its own limits
    code += _if_called(number["prctl"], 0, [(_EQUAL, 0, 1, one) for one in _OPTIONS], _ALLOW, refused)
    code += _if_called(number["ioctl"], 1, [(_EQUAL, 0, 1, one) for one in _REQUESTS], _ALLOW, refused)
    return b"".join([*code, *_instructions((_RETURN, 0, 0, refused))])


def _instructions(*parts: tuple[int, int, int, int | None]) -> list[bytes]:
    return [struct.pack("=HBBI", code, yes, no, value) for code, yes, no, value in parts]


def _if_called(
    number: int | None, argument: int, tests: list[tuple[int, int, int, int]], yes: int, no: int
) -> list[bytes]:
    """For one call: answer ``yes`` where a test of an argument's lower half holds, and ``no`` elsewhere."""
    inside = _instructions((_LOAD, 0, 0, 16 + 8 * argument))
    for test in tests:
        inside += _instructions(test, (_RETURN, 0, 0, yes))
    inside += _instructions((_RETURN, 0, 0, no))
    return [*_instructions((_EQUAL, 0, len(inside), number)), *inside]


def confine() -> None:
    """Hold this process and all its children to the filter, for good."""
    code = program(os.uname().machine)
    held = ctypes.create_string_buffer(code, len(code))
    description = ctypes.create_string_buffer(
        struct.pack("@HP", len(code) // 8, ctypes.addressof(held))  # struct sock_fprog
    )
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_SECCOMP, _FILTER_MODE, ctypes.cast(description, ctypes.c_void_p))
