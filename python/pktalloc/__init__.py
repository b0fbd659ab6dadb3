"""Aligned, writable packet buffers that are reused in the order in which packets leave.

An `Allocator` hands out `Packet`s. A packet is a buffer like a `bytearray`, made for `socket.recv_into`, `memoryview`,
`struct`, `numpy.frombuffer` and `file.readinto`, and gives its memory back when it goes:

>>> import pktalloc
>>> allocator = pktalloc.Allocator()
>>> packet = allocator.allocate(1400)
>>> packet[:5] = b"hello"
>>> packet.shrink(5)
>>> bytes(packet)
b'hello'
"""

import sys

from pktalloc._pktalloc import Allocator, IntegrityError, Packet, __version__, tracemalloc_domain

__all__ = ["Allocator", "IntegrityError", "Packet", "Stats", "Window", "Windows", "__version__", "tracemalloc_domain"]

if sys.platform == "linux":
    from pktalloc._pktalloc import DatagramBatch, datagram_counters, recv_many_into, send_many

    __all__ += ["DatagramBatch", "datagram_counters", "recv_many_into", "send_many"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pktalloc._figures import Stats, Window, Windows


def __getattr__(name: str) -> object:
    # Their module brings `typing` along, which takes longer than all the rest; most programs never ask.
    if name not in {"Stats", "Window", "Windows"}:
        raise AttributeError(f"module 'pktalloc' has no attribute '{name}'", name=name, obj=sys.modules[__name__])
    from pktalloc import _figures  # noqa: PLC0415 - that is the point

    found = globals()[name] = getattr(_figures, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
