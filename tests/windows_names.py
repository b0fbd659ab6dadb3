"""A plugin for pytest that takes away what Windows does not have: `-p windows_names`.

The test modules can then be collected as they would be there. The standard library and the packages that tests use are
imported first, with everything that this system has; what is left is what our own modules ask for.
"""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest

MODULES = ("curses", "fcntl", "grp", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty", "uvloop")

POSIX = """
    confstr copy_file_range eventfd fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid
    getpgrp getpriority getresuid getuid killpg lchown major makedev memfd_create minor mkfifo mknod nice openpty
    pathconf pidfd_open pipe2 posix_fadvise posix_spawn pread preadv pwrite pwritev readv register_at_fork
    sched_getaffinity sched_setaffinity sched_yield sendfile set_blocking setegid seteuid setgid setpgid setpriority
    setsid setuid splice statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid writev
    O_ASYNC O_CLOEXEC O_DIRECT O_DIRECTORY O_DSYNC O_NDELAY O_NOATIME O_NOCTTY O_NOFOLLOW O_NONBLOCK O_PATH O_SYNC
    O_TMPFILE WNOHANG
"""

SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
SIGNAL_CALLS = "alarm getitimer setitimer pause pthread_kill pthread_sigmask sigwait sigpending"

SOCKETS = """
    AF_ALG AF_CAN AF_NETLINK AF_PACKET AF_TIPC AF_UNIX AF_VSOCK CMSG_LEN CMSG_SPACE IP_TRANSPARENT MSG_CONFIRM
    MSG_DONTWAIT MSG_ERRQUEUE MSG_NOSIGNAL SCM_CREDENTIALS SCM_RIGHTS SO_BINDTODEVICE SO_DOMAIN SO_MARK SO_PEERCRED
    SO_PRIORITY SO_PROTOCOL SO_REUSEPORT recv_fds send_fds sethostname
"""

CLOCKS = "clock_getres clock_gettime clock_settime pthread_getcpuclockid tzset"

PACKAGES = (
    *("asyncio", "ctypes", "multiprocessing", "ssl", "subprocess", "unittest.mock"),
    *("hypothesis.stateful", "numpy", "pygal", "rich.console"),
)
"""What looks at the system once, when it is imported."""


def hide(module: Any, names: str) -> None:
    """Take names out of a module."""
    for name in names.split():
        vars(module).pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Before anything of ours is imported, and after everything that plugins of others need."""
    become()


def become() -> None:
    """Leave this process with what there is on Windows."""
    for package in PACKAGES:
        importlib.import_module(package)
    for one in MODULES:
        sys.modules[one] = None  # type: ignore[assignment]
    # To end a process takes a signal here.
    vars(subprocess)["signal"] = SimpleNamespace(**vars(signal))
    # And to start one, from Python 3.14 on, a call of this system's.
    vars(subprocess)["_USE_POSIX_SPAWN"] = False
    # Windows has no descriptors of folders.
    vars(shutil).update(_use_fd_functions=False, _rmtree_impl=vars(shutil)["_rmtree_unsafe"])
    hide(os, POSIX)
    others = [name for name in vars(signal) if name.startswith("SIG") and name not in SIGNALS]
    hide(signal, " ".join([SIGNAL_CALLS, *others]))
    hide(socket, SOCKETS)
    hide(time, CLOCKS)
    sys.platform = "win32"
    native: Any = importlib.import_module("pktalloc._pktalloc")
    hide(native, "DatagramBatch Receiver datagram_counters recv_many_into send_many")
    native.recorder = None
