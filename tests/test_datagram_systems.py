"""Datagrams in batches where the system answers as it seldom does: through a library in front of the system's."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from c_programs import compiler_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="datagrams in batches are there on Linux")

Run = Callable[[str, str], None]

# Once, a plain call that finds nothing behind a datagram says that a peer was unreachable; or how long a datagram was
# that did not fit is not told, or must not be asked.
SYSTEM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

ssize_t recvfrom(int fd, void *bytes, size_t room, int flags, struct sockaddr *name, socklen_t *length) {
    static ssize_t (*real)(int, void *, size_t, int, struct sockaddr *, socklen_t *);
    static int behind, told;
    if (!real)
        real = dlsym(RTLD_NEXT, "recvfrom");
    const char *mode = getenv("SYSTEM");
    if (mode[0] == 'r' && flags & MSG_TRUNC) {
        errno = EINVAL;
        return -1;
    }
    ssize_t got = real(fd, bytes, room, mode[0] == 'i' ? flags & ~MSG_TRUNC : flags, name, length);
    if (got < 0 && errno == EAGAIN && behind && !told && mode[0] == 'e') {
        told = 1;
        errno = ECONNREFUSED;
    }
    behind = got >= 0;
    return got;
}
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Run:
    compiler = compiler_for("another system")
    folder = tmp_path_factory.mktemp("system")
    source, library = folder / "system.c", folder / "system.so"
    source.write_text(SYSTEM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def run(mode: str, program: str) -> None:
        environment = os.environ | {"LD_PRELOAD": str(library), "SYSTEM": mode}
        ended = subprocess.run(
            [sys.executable, "-c", program], check=False, capture_output=True, text=True, env=environment, timeout=60
        )
        assert (ended.returncode, ended.stderr) == (0, "")

    return run


AN_ERROR_BEHIND = """
import socket
from pktalloc import Allocator, recv_many_into

here, there = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
here.bind(("127.0.0.1", 0))
here.setblocking(False)
there.connect(here.getsockname())
allocator, rows = Allocator(), memoryview(bytearray(400)).cast("B", (4, 100))
other = memoryview(bytearray(500)).cast("B", (5, 100))
calls = {{
    "packets": lambda: allocator.recv_many(here, 4),
    "rows": lambda: recv_many_into(here, rows),
    "other rows": lambda: recv_many_into(here, other),
}}
first, then = calls[{first!r}], calls[{then!r}]
# From the third on a single datagram is expected.
for number in range(3):
    there.send(b"%d" % number)
    assert first().sizes == [1]
there.send(b"later")
try:
    then()
except ConnectionRefusedError:
    pass
else:
    raise AssertionError("the error was lost")
assert then().sizes == [5]
"""


@pytest.mark.parametrize("then", ["packets", "rows", "other rows"])
@pytest.mark.parametrize("first", ["packets", "rows"])
def test_an_error_between_two_plain_calls_comes_with_the_next_one(system: Run, first: str, then: str) -> None:
    system("error", AN_ERROR_BEHIND.format(first=first, then=then))


CUT_OFF = """
import socket
from pktalloc import Allocator, recv_many_into
from pktalloc._pktalloc import Receiver

allocator, rows = Allocator(), memoryview(bytearray(4)).cast("B", (1, 4))
here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
# The family is what Python believes it to be.
here = socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, 0, fileno=here.detach())
receiver = Receiver(here, 1, 4)
for receive in (
    lambda: allocator.recv_many(here, 1, 4),
    lambda: recv_many_into(here, rows),
    lambda: receiver.receive(allocator),
):
    for length in (3, 4, 5):
        there.send(b"x" * length)
        batch = receive()
        assert (batch.sizes, batch.truncated) == ([min(length, 4)], [length > 4]), batch.truncated
"""


@pytest.mark.parametrize("mode", ["ignores", "refuses"])
def test_families_that_do_not_tell_how_long_a_datagram_was(system: Run, mode: str) -> None:
    system(mode, CUT_OFF)
