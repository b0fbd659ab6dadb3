"""What the tests of datagrams in batches use: sockets on this host, and everything that they receive."""

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pktalloc import Allocator, Packet

Sockets = Callable[..., socket.socket]


def receive(allocator: Allocator, sock: socket.socket, total: int, **options: Any) -> list[tuple[Any, Any]]:
    """Receive `total` datagrams in as many calls as that takes."""
    pairs: list[tuple[Any, Any]] = []
    while len(pairs) < total:
        pairs.extend(allocator.recv_many(sock, **options))
    assert len(pairs) == total
    return pairs


def drained(allocator: Allocator, sock: socket.socket) -> int:
    """Receive everything from a non-blocking socket; return how many datagrams that were."""
    received = 0
    try:
        while True:
            received += len(allocator.recv_many(sock))
    except BlockingIOError:
        return received


def filled(allocator: Allocator, size: int) -> list[Packet]:
    """Allocate packets until the allocator refuses."""
    packets: list[Packet] = []
    try:
        while True:
            packets.append(allocator.allocate(size))
    except MemoryError:
        return packets


def wait_until_asleep(thread: threading.Thread) -> None:
    """Wait until a thread waits for the system."""
    state = Path(f"/proc/self/task/{thread.native_id}/stat")
    while not state.read_text(encoding="ascii").split(") ")[1].startswith("S"):
        pass


def link_local() -> tuple[str, str]:
    """Find a link-local address of this host, and the interface that has it."""
    lines = [line.split() for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()]
    found = [line for line in lines if line[0].startswith("fe80")]
    if not found:
        pytest.skip("this host has no link-local address")
    raw, _, _, _, _, name = found[0]
    return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw)), name
