"""Fixed-size datagrams straight into a NumPy array, as instruments and market feeds send them.

`python examples/numpy_datagrams.py` takes 20,000 records in and reduces them, and again with `recv_into` row by row.
"""

import socket
import time
from collections.abc import Callable

import numpy as np

from pktalloc import recv_many_into, send_many

RECORD = np.dtype([("sequence", "<u4"), ("channel", "<u4"), ("samples", "<i2", 252)])
RECORDS, WINDOW = 20_000, 50


def in_batches(sock: socket.socket, rows: np.ndarray) -> int:
    """Fill rows with what is there; return how many."""
    return len(recv_many_into(sock, rows))


def one_by_one(sock: socket.socket, rows: np.ndarray) -> int:
    """Fill one row."""
    sock.recv_into(rows[0])
    return 1


def measure(receive: Callable[[socket.socket, np.ndarray], int]) -> tuple[int, float]:
    """Return the sum of all samples, and the processor time a record."""
    room = np.zeros((WINDOW, RECORD.itemsize), np.uint8)
    records = np.zeros(WINDOW, RECORD)
    total, took = 0, 0.0
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        for start in range(0, RECORDS, WINDOW):
            records["sequence"] = np.arange(start, start + WINDOW)
            records["samples"] = records["sequence"][:, None] % 100
            send_many(sender, list(records.view(np.uint8).reshape(WINDOW, -1)), sock.getsockname())
            left, began = WINDOW, time.thread_time()
            while left:
                filled = receive(sock, room[:left])
                # No copy: the rows are the records.
                arrived = room[:filled].view(RECORD)
                total += int(arrived["samples"].sum())
                left -= filled
            took += time.thread_time() - began
    return total, took / RECORDS * 1e6


if __name__ == "__main__":
    (ours, batches), (theirs, usual) = measure(in_batches), measure(one_by_one)
    assert ours == theirs == sum(number % 100 for number in range(RECORDS)) * 252
    print(f"numpy_datagrams: {RECORDS} records, {batches:.2f} us each in batches, {usual:.2f} us with recv_into")
