"""An RTP receiver with a jitter buffer: packets wait in the order of their sequence numbers until their time has come.

The packets that wait are those that were received: nothing is copied. `python examples/rtp_receiver.py` plays a stream
that arrives shuffled and with losses, as fast as it can, and again with a `bytes` for each packet.
"""

import heapq
import random
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Any

from pktalloc import Allocator, send_many

HEADER = struct.Struct("!BBHII")
PACKETS, PAYLOAD, DEPTH = 10_000, 960, 40


class JitterBuffer:
    """Holds packets back until so many are there that a late one may still arrive."""

    def __init__(self, depth: int) -> None:
        """Hold back `depth` packets."""
        self.depth = depth
        self.waiting: list[tuple[int, Any]] = []
        self.next = 0
        self.lost = 0
        self.late = 0

    def push(self, packet: Any) -> None:
        """Take a packet in; one that comes after its turn is dropped."""
        _, _, short, _, _ = HEADER.unpack_from(packet)
        # The 16 bits of the header, continued from what is played next.
        sequence = self.next + (short - self.next + 0x8000) % 0x10000 - 0x8000
        if sequence < self.next:
            self.late += 1
        else:
            heapq.heappush(self.waiting, (sequence, packet))

    def pop(self, *, everything: bool = False) -> Iterator[Any]:
        """Give out what has waited long enough, in order."""
        while self.waiting and (everything or len(self.waiting) > self.depth):
            sequence, packet = heapq.heappop(self.waiting)
            self.lost += sequence - self.next
            self.next = sequence + 1
            yield packet


def stream(seed: int) -> Iterator[list[bytes]]:
    """Make a stream as it arrives: in bursts, out of order, with one in a hundred lost."""
    dice = random.Random(seed)  # noqa: S311
    packets = [HEADER.pack(0x80, 96, number & 0xFFFF, number * 160, 7) + bytes(PAYLOAD) for number in range(PACKETS)]
    order = sorted(range(PACKETS), key=lambda number: number + dice.random() * 20)
    kept = [packets[number] for number in order if dice.random() > 0.01 or number == PACKETS - 1]
    for start in range(0, len(kept), 50):
        yield kept[start : start + 50]


def play(receive: Any, sock: socket.socket, sender: socket.socket) -> tuple[JitterBuffer, float, int]:
    """Receive the stream and play it; return the buffer, the processor time a packet, and the packets played."""
    buffer, took, played = JitterBuffer(DEPTH), 0.0, 0
    for burst in stream(1):
        send_many(sender, burst, sock.getsockname())
        start, left = time.thread_time(), len(burst)
        while left:
            packets: Iterable[Any] = receive(sock)
            for packet in packets:
                left -= 1
                buffer.push(packet)
            for packet in buffer.pop():
                played += len(packet) == HEADER.size + PAYLOAD
        took += time.thread_time() - start
    played += sum(1 for _ in buffer.pop(everything=True))
    return buffer, took / PACKETS * 1e6, played


if __name__ == "__main__":
    allocator = Allocator()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        ours, batches, played = play(lambda sock: allocator.recv_many(sock).packets, sock, sender)
        theirs, usual, also = play(lambda sock: [sock.recvfrom(2048)[0]], sock, sender)
    assert (played, ours.lost, ours.late) == (also, theirs.lost, theirs.late)
    assert played + ours.lost == PACKETS
    print(
        f"rtp_receiver: {played} played, {ours.lost} lost, {ours.late} late; {batches:.2f} us a packet in batches, "
        f"{usual:.2f} us with recvfrom"
    )
