"""The job that packets are for: datagrams from a socket, through a queue, checked and freed."""

import queue
import random
import socket
import threading

from pktalloc import Allocator, Packet

DATAGRAMS = 1000


def datagram(number: int) -> bytes:
    """Content that tells number and length."""
    length = random.Random(number).randrange(32, 1472)
    return number.to_bytes(4, "big") + bytes((number * 7 + place) % 256 for place in range(length - 4))


def test_a_thousand_datagrams_received_straight_into_packets() -> None:
    allocator = Allocator()
    received: queue.Queue[Packet] = queue.Queue()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(10)
        sender.connect(receiver.getsockname())
        # One datagram is on its way at a time, so that none is lost.
        taken = threading.Semaphore(1)

        def send() -> None:
            for number in range(DATAGRAMS):
                taken.acquire()
                sender.send(datagram(number))

        sending = threading.Thread(target=send)
        sending.start()
        for _ in range(DATAGRAMS):
            packet = allocator.allocate(2048)
            packet.shrink(receiver.recv_into(packet))
            taken.release()
            received.put(packet)
            del packet
        sending.join()
    live = allocator.stats()
    assert live.live_packets == DATAGRAMS
    assert live.used_bytes == sum((len(datagram(number)) + 63) // 64 * 64 for number in range(DATAGRAMS))
    for number in range(DATAGRAMS):
        packet = received.get()
        assert packet == datagram(number)
        allocator.free(packet)
    assert allocator.used_bytes == 0
    allocator.integrity_check()
