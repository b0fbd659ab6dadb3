"""Memory may run out at any moment: a `MemoryError` then, and everything goes on when there is memory again.

Each call is made in a process of its own, in two ways. In the first one Python's allocator is the system's, and the
address space is limited to little more than what the process has; all that is free in it is taken, then given back in
small steps, with the call tried after each. In the second, Python's allocator refuses once or a few times, at each of
its calls.
"""

import importlib.util
import os
import subprocess
import sys

import pytest

from pktalloc import _pktalloc

CALLS = {
    "windows": "allocator.windows()",
    "str": "str(windows)",
    "repr of windows": "repr(windows)",
    "to_svg": "windows.to_svg()",
    "stats": "allocator.stats()",
    "repr": "repr(allocator), repr(packet)",
    "used_bytes": "allocator.used_bytes, allocator.allocated_bytes",
    "integrity_check": "allocator.integrity_check()",
    "trim": "allocator.trim()",
    "allocate": "allocator.allocate(1400)",
    "allocate a lot": "allocator.allocate(1 << 20)",
    "allocate too much": "allocator.allocate(1 << 62)",
    "allocate below nothing": "allocator.allocate(-5)",
    "allocate by a wrong keyword": "allocator.allocate(bytes=3)",
    "allocate_many": "allocator.allocate_many(1400, 200)",
    "allocate_many too many": "allocator.allocate_many(1400, 1 << 40)",
    "allocate with check": "checked.allocate(1400)",
    "resize with check": "checked_packet.resize(3000); checked_packet.resize(100)",
    "integrity_check with check": "checked.integrity_check()",
    "allocate with zero": "zeroed.allocate(1400)",
    "resize": "packet.resize(100_000); packet.resize(1400)",
    "shrink beyond": "packet.shrink(2000)",
    "slice": "packet[3:7]",
    "slice with a step": "packet[300:1300:257]",
    "assign to a slice": "packet[0:1400:2] = bytes(700)",
    "assign too much": "packet[0:3] = b'abcd'",
    "index out of range": "packet[5000]",
    "index of another type": "packet['a']",
    "view": "packet.view",
    "tobytes": "packet.tobytes()",
    "hex": "packet.hex(':')",
    "in": "b'xyz' in packet",
    "iterate": "list(packet)",
    "compare": "packet == bytes(1400)",
    "address": "packet.address, packet.capacity, packet.size",
    "copy": "packet.copy()",
    "split": "packet.copy().split(100)",
    "split a large packet": "allocator.allocate(1 << 20).split(1200)",
    "headers": "other = allocator.allocate(100, headroom=14); other.prepend(b'x'); other.append(bytes(5000))",
    "prepend too much": "packet.prepend(bytes(5000))",
    "advance too far": "packet.advance(5000)",
    "headroom": "packet.headroom, packet.tailroom",
    "use a released packet": "len(released)",
    "release while exported": "exported.release()",
    "close while exported": "allocator.close()",
    "free a foreign packet": "checked.free(packet)",
    "free no packet": "checked.free(3)",
    "pickle": "packet.__reduce_ex__(2)",
    "new allocator": "Allocator()",
    "new allocator of another shape": "Allocator(alignment=32).allocate(100)",
    "new allocator with a wrong setting": "Allocator(alignment=48)",
    "new allocator with a far setting": "Allocator(window_bytes=1 << 70)",
    "new allocator with a wrong keyword": "Allocator(colour=1)",
    "new allocator with a wrong type": "Allocator(zero='1')",
    "make a packet": "pktalloc.Packet()",
}
if sys.platform == "linux":
    CALLS |= {
        "recv_many": "there.send(b'x'); allocator.recv_many(here)",
        "recv_many with all there is to tell": "there.sendto(b'x', address); allocator.recv_many(told, **tell)",
        "recv_many that delivers nothing": "receive_when_full()",
        "recv_many of nothing": "allocator.recv_many(there)",
        "recv_many of no socket": "allocator.recv_many(3)",
        "recv_many_into": "there.send(b'x'); pktalloc.recv_many_into(here, rows)",
        "recv_many_into a wrong buffer": "pktalloc.recv_many_into(here, bytes(10))",
        "send_many": "pktalloc.send_many(there, [b'x', packet, packet], here.getsockname())",
        "send_many of many": "send_more()",
        "send_many to no address": "pktalloc.send_many(there, [b'x'], 'nowhere')",
        "what a batch tells": "batch.sizes, batch.truncated, batch.timestamps_ns, batch.local_addresses, batch.dropped",
        "a batch as a sequence": "batch[0], batch[:], list(batch), len(batch), int(batch), batch == 1, repr(batch)",
        "datagram_counters": "pktalloc.datagram_counters()",
    }
"""Each ends as it does where there is memory, or with `MemoryError`."""

START = """
import gc, resource, socket, sys
import pktalloc
from pktalloc import Allocator

allocator, checked, zeroed = Allocator(), Allocator(check=True, window_bytes=1 << 14), Allocator(zero=True)
packet, released, exported = allocator.allocate_many(1400, 3)
released.release()
view = exported.view
checked_packet = checked.allocate(1400)
kept = allocator.allocate_many(64, 3000)
del kept[::7]
windows = allocator.windows()
if sys.platform == "linux":
    here, told, there = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
    for each in here, told, there:
        each.bind(("127.0.0.1", 0))
        each.setblocking(False)
    there.connect(here.getsockname())
    rows = memoryview(bytearray(6400)).cast("B", (64, 100))
    pktalloc.send_many(there, [b"x"], told.getsockname())
    address = told.getsockname()
    tell = dict(timestamps=True, local_addresses=True, ecn=True, dropped=True)
    batch = allocator.recv_many(told, **tell)
    payloads = [bytes(size) for size in range(1, 101)] * 10

full = Allocator(memory_limit=1 << 20)
try:
    while True:
        kept.append(full.allocate(64))
except MemoryError:
    pass

def receive_when_full():
    # While memory is short this allocator has no room, so that what arrived is kept for later.
    there.send(b"x")
    (full if globals().get("hoard") else allocator).recv_many(here, 1, 64)

# More than ever before, so that what was made for earlier calls is not enough.
lengths = [1]

def send_more():
    lengths[0] = min(lengths[0] + 5, 1000)
    pktalloc.send_many(there, payloads[:lengths[0]])

def call():
    {call}

def kind_of(error):
    # What the interpreter itself makes of a line number that it has no memory for, also for `[][3]`, and of a function
    # in Python that ends like that.
    own = isinstance(error, SystemError) and str(error).startswith(("error return without exception set", "<function "))
    return MemoryError if own else type(error)

def attempt():
    try:
        call()
    except BaseException as error:
        return kind_of(error)
    return None

# Once where there is memory: what is made only once is made, and this is how the call ends.
usual = attempt()
wrong = None
attempts = failures = 0
"""

LIMITED = """
SIZES = [1 << exponent for exponent in range(19, 9, -1)] + [*range(1008, 0, -16), 1]
hoard = [None] * 600_000
reserve = bytes(100_000)
gc.collect()
gc.disable()
pages = int(open("/proc/self/statm").read().split()[0])
unlimited = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 20), unlimited[1]))

# Take all that is free, the largest pieces first.
taken = 0
for size in SIZES:
    try:
        while True:
            hoard[taken] = bytes(size)
            taken += 1
    except MemoryError:
        pass

# Give it back, the smallest pieces first: one by one to begin with, then more and more at a time.
step = 1
while taken > 0:
    try:
        outcome = attempt()
        if outcome is MemoryError and usual is not MemoryError:
            failures += 1
        elif outcome is not usual:
            wrong = outcome
        attempts += 1
        if attempts % 50 == 0:
            step *= 2
    except MemoryError:
        # That was the harness.
        pass
    try:
        for _ in range(step):
            if taken > 0:
                taken -= 1
                hoard[taken] = None
    except MemoryError:
        # That was the harness, too, which has something put by. Where that has not helped it gives all back at once,
        # which takes no memory, rather than try again for ever.
        if reserve is None:
            hoard.clear()
            taken = 0
        reserve = None
hoard = None
resource.setrlimit(resource.RLIMIT_AS, unlimited)
"""

REFUSED = """
import _testcapi
gc.disable()

def attempt_refused(start, stop):
    try:
        try:
            _testcapi.set_nomemory(start, stop)
            call()
            return None
        finally:
            _testcapi.remove_mem_hooks()
    except BaseException as error:
        return kind_of(error)

for start in range(200):
    # Not from then on: the interpreter itself would try again for ever to handle the exception.
    for stop in start + 1, start + 3:
        outcome = attempt_refused(start, stop)
        attempts += 1
        if outcome is MemoryError and usual is not MemoryError:
            failures += 1
        elif outcome is not usual:
            wrong = outcome
"""

IMPORT = """
import gc, importlib.util, os, resource, sys

path, how, places = sys.argv[1], sys.argv[2], range(*map(int, sys.argv[3:6]))
width = int(sys.argv[6])
spec = importlib.util.spec_from_file_location("pktalloc._pktalloc", path)
gc.disable()

def load():
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def begin(place):
    if how == "refused":
        _testcapi.set_nomemory(place, place + width)
    else:
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + place, unlimited[1]))

def end():
    if how == "refused":
        _testcapi.remove_mem_hooks()
    else:
        resource.setrlimit(resource.RLIMIT_AS, unlimited)

def attempt(place):
    outcome = "imported"
    try:
        try:
            begin(place)
            load()
        finally:
            end()
    except BaseException as error:
        outcome = type(error).__name__
    # When there is memory again.
    module = load()
    packet = module.Allocator().allocate(5)
    packet[:] = b"hello"
    assert bytes(packet) == b"hello"
    assert set(module.__all__) <= set(dir(module)), module.__all__
    os.write(1, f"{outcome}\\n".encode())

unlimited = resource.getrlimit(resource.RLIMIT_AS)
if how == "refused":
    import _testcapi

    # PyO3 waits for itself for ever where it is refused memory for its own exception class, which it makes first. So it
    # makes it here; otherwise the module first looks at how much memory there is.
    sys._is_gil_enabled = lambda: False
    try:
        load()
    except ImportError:
        pass
    del sys._is_gil_enabled

# Each in a process of its own: what is made for the first time is made only once.
for place in places:
    child = os.fork()
    if not child:
        attempt(place)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status == 0, (place, status)
"""

ALONE = """
import _testcapi, gc
gc.disable()

class Numbers:
    def __iter__(self):
        yield from range(60)
    def __repr__(self):
        return f"{sum(number for number in self)} {sum(number for number in self)}"

for start in range(200):
    for stop in start + 1, start + 3:
        try:
            try:
                _testcapi.set_nomemory(start, stop)
                repr(Numbers())
            finally:
                _testcapi.remove_mem_hooks()
        except BaseException:
            pass
"""
"""The interpreter by itself."""

END = """
if wrong is not None:
    sys.exit(f"ended with {{wrong}} instead of {{usual}} or MemoryError")
allocator.integrity_check()
checked.integrity_check()
zeroed.integrity_check()
assert attempt() is usual
assert len(Allocator().allocate_many(1400, 100)) == 100
print("failed", failures, "times of", attempts)
"""


def run(program: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def imports(how: str, places: range, width: int = 1, **environment: str) -> list[str]:
    """How the import of the module ends, at each place, each in a process of its own."""
    numbers = [places.start, places.stop, places.step, width]
    command = [sys.executable, "-c", IMPORT, _pktalloc.__file__, how, *map(str, numbers)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment}
    )
    if how == "refused" and done.returncode != 0 and run(ALONE, {}).returncode < 0:
        pytest.skip("this interpreter crashes by itself where its allocator refuses, as 3.12.1 and 3.13.0 do")
    assert done.returncode == 0, done.stdout[-100:] + done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited as Linux does it")
def test_an_import_where_the_system_has_no_memory() -> None:
    outcomes = imports("limited", range(0, 10 << 20, 64 << 10), PYTHONMALLOC="malloc")
    # The dynamic linker has no `MemoryError`.
    assert set(outcomes) == {"ImportError", "MemoryError", "imported"}
    assert outcomes[-1] == "imported"


@pytest.mark.skipif(
    not importlib.util.find_spec("_testcapi"), reason="this interpreter's allocator cannot be told to refuse"
)
@pytest.mark.parametrize("refusals", [1, 3])
def test_an_import_where_python_has_no_memory(refusals: int) -> None:
    outcomes = imports("refused", range(0, 600, refusals), refusals)
    assert set(outcomes) == {"MemoryError", "imported"}
    assert outcomes.count("MemoryError") > 300 // refusals
    assert outcomes[-1] == "imported"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited as Linux does it")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_where_the_system_has_no_memory(call: str) -> None:
    finished = run((START + LIMITED + END).format(call=call), {"PYTHONMALLOC": "malloc"})
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.skipif(
    not importlib.util.find_spec("_testcapi"), reason="this interpreter's allocator cannot be told to refuse"
)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_where_python_has_no_memory(call: str) -> None:
    finished = run((START + REFUSED + END).format(call=call), {})
    if finished.returncode < 0 and run(ALONE, {}).returncode < 0:
        pytest.skip("this interpreter crashes by itself where its allocator refuses, as 3.12.1 and 3.13.0 do")
    # A generator that cannot be finished for want of memory is reported by the interpreter.
    assert finished.returncode == 0, finished.stderr
