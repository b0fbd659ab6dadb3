"""A sink for statsd lines under asyncio: many small datagrams from many senders, counted as they come.

`python examples/statsd_sink.py` sends 20,000 of them, and runs the same protocol on asyncio's own transport beside it.
"""

import asyncio
import collections
import socket
import time
from typing import Any

from pktalloc import aio, send_many

DATAGRAMS, WINDOW = 20_000, 100


class Sink(asyncio.DatagramProtocol):
    """Adds up counters: an ordinary protocol, which knows nothing about batches."""

    def __init__(self) -> None:
        """Start with nothing counted."""
        self.sums: collections.Counter[bytes] = collections.Counter()
        self.received = 0

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ARG002 - any sender will do
        """Take lines such as `requests:3|c`."""
        self.received += 1
        for line in data.splitlines():
            name, _, rest = line.partition(b":")
            value, _, kind = rest.partition(b"|")
            if kind == b"c":
                self.sums[name] += int(value)


async def measure(make: Any) -> tuple[Sink, float]:
    """Return what was counted, and the processor time a datagram."""
    transport, sink = await make(Sink, local_addr=("127.0.0.1", 0))
    address, took = transport.get_extra_info("sockname"), 0.0
    senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
    for number in range(0, DATAGRAMS, WINDOW):
        lines = [b"requests:%d|c\nbytes:%d|c" % (index % 5, index) for index in range(number, number + WINDOW)]
        for place, sender in enumerate(senders):
            send_many(sender, lines[place::4], address)
        start = time.thread_time()
        while sink.received < number + WINDOW:  # noqa: ASYNC110 - the sink knows nothing about this measurement
            await asyncio.sleep(0)
        took += time.thread_time() - start
    for sender in senders:
        sender.close()
    transport.close()
    await asyncio.sleep(0)
    return sink, took / DATAGRAMS * 1e6


async def main() -> None:
    """Run both."""
    ours, batches = await measure(aio.create_datagram_endpoint)
    theirs, usual = await measure(asyncio.get_running_loop().create_datagram_endpoint)
    assert ours.sums == theirs.sums
    assert ours.sums[b"bytes"] == DATAGRAMS * (DATAGRAMS - 1) // 2
    print(
        f"statsd_sink: {DATAGRAMS} datagrams, {batches:.2f} us each in batches, {usual:.2f} us on asyncio's transport"
    )


if __name__ == "__main__":
    asyncio.run(main())
