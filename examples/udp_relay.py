"""A UDP relay: what comes in on one port goes out to another host, in batches and the usual way.

`python examples/udp_relay.py` sends 20,000 datagrams through both and says what each took.
"""

import socket
import threading
import time

from pktalloc import Allocator, send_many

DATAGRAMS, WINDOW, BYTES = 20_000, 50, 1200


def relay_in_batches(sock: socket.socket, target: tuple[str, int], total: int) -> None:
    """Forward datagrams as many at a time as are there."""
    allocator = Allocator()
    while total > 0:
        batch = allocator.recv_many(sock, 64, gro=True)
        packets = batch.packets
        while packets:
            # A partial send says how many went.
            packets = packets[send_many(sock, packets, target) :]
        total -= len(batch)


def relay_one_by_one(sock: socket.socket, target: tuple[str, int], total: int) -> None:
    """Forward datagrams the usual way."""
    for _ in range(total):
        data, _ = sock.recvfrom(2048)
        sock.sendto(data, target)


def measure(relay: object) -> float:
    """Return the processor time that a relay takes for a datagram, in microseconds."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as middle,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
    ):
        for sock in (client, middle, server):
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(10)
        took: list[float] = []

        def work() -> None:
            start = time.thread_time()
            relay(middle, server.getsockname(), DATAGRAMS)  # type: ignore[operator]
            took.append(time.thread_time() - start)

        thread = threading.Thread(target=work)
        thread.start()
        allocator, payload = Allocator(), [bytes(BYTES)] * WINDOW
        for _ in range(DATAGRAMS // WINDOW):
            # So many are on their way at a time, so that no receive buffer overflows.
            send_many(client, payload, middle.getsockname())
            left = WINDOW
            while left:
                batch = allocator.recv_many(server)
                assert set(batch.sizes) == {BYTES}
                left -= len(batch)
        thread.join()
    return took[0] / DATAGRAMS * 1e6


if __name__ == "__main__":
    batches, usual = measure(relay_in_batches), measure(relay_one_by_one)
    print(
        f"udp_relay: {DATAGRAMS} datagrams, {batches:.2f} us each in batches, {usual:.2f} us with recvfrom and sendto"
    )
