"""What every test of the Python face uses."""

import asyncio
import gc
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pktalloc

if TYPE_CHECKING:
    from aio_protocols import Run
    from datagram_sockets import Sockets
from processor_time import scheduled
from replay_command import LINK, PACKETS


@pytest.fixture
def allocator() -> Iterator[pktalloc.Allocator]:
    """Give an allocator of the default configuration whose bookkeeping must be whole at the end."""
    allocator = pktalloc.Allocator()
    yield allocator
    if not allocator.closed:
        allocator.integrity_check()


@pytest.fixture(params=[0, 5], ids=["at the start of its block", "behind a header"])
def offset(request: pytest.FixtureRequest) -> int:
    """Return how many bytes of its block lie in front of a packet."""
    return int(request.param)


@pytest.fixture
def packet_of(allocator: pktalloc.Allocator, offset: int) -> Callable[[bytes], pktalloc.Packet]:
    """Return a function that makes a packet with a content, so far behind the start of its block."""

    def make(content: bytes) -> pktalloc.Packet:
        packet = allocator.allocate(offset + len(content))
        packet.advance(offset)
        packet[:] = content
        return packet

    return make


@pytest.fixture
def sockets() -> Iterator["Sockets"]:
    """Make sockets that are bound to this host (or to nothing: `None`), wait at most 10 seconds, and are closed."""
    with ExitStack() as stack:

        def make(family: int = socket.AF_INET, host: str | None = "", kind: int = socket.SOCK_DGRAM) -> socket.socket:
            made = stack.enter_context(socket.socket(family, kind))
            if family in {socket.AF_INET, socket.AF_INET6} and host is not None:
                made.bind((host or ("127.0.0.1" if family == socket.AF_INET else "::1"), 0))
            made.settimeout(10)
            return made

        yield make


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator["Run"]:
    """Run a coroutine on each kind of loop, and see that it leaves nothing behind."""
    import uvloop  # noqa: PLC0415 - not on every system

    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
    # The first loop of a kind opens what stays open.
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.sleep(0))
    before = len(list(Path("/proc/self/fd").iterdir()))

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        reports: list[dict[str, Any]] = []
        started = scheduled()
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: reports.append(context))
            try:
                result = runner.run(asyncio.wait_for(coroutine, 20))
            except TimeoutError as error:
                # Tells a loop that sleeps or turns for ever from one that was given no processor.
                ran, waited = (now - then for now, then in zip(scheduled(), started, strict=True))
                error.add_note(f"In 20 s it ran for {ran:.2f} s and waited {waited:.2f} s for a processor.")
                raise
            runner.run(asyncio.sleep(0.001))
        assert not reports
        return result

    yield run
    gc.collect()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "packets.csv"
    path.write_text(PACKETS)
    return path


@pytest.fixture
def link(tmp_path: Path) -> Path:
    path = tmp_path / "link.csv"
    path.write_text(LINK)
    return path
