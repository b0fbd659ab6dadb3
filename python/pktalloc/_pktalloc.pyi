# The docstrings come from the module itself: `make stubs` writes them here.

"""Aligned, writable packet buffers from a windowed allocator."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from os import PathLike
from socket import socket
from types import TracebackType
from typing import Any, Final, Generic, Literal, Never, Protocol, Self, SupportsIndex, TypeAlias, final, overload

from typing_extensions import Buffer, TypeVar

from pktalloc._figures import Stats, Windows

__all__ = [
    "Allocator",
    "IntegrityError",
    "Packet",
    "ReplayProgram",
    "ReplayRunner",
    "__version__",
    "begin_recording",
    "end_recording",
    "load",
    "recorder",
    "tracemalloc_domain",
]

if sys.platform == "linux":
    __all__ += ["DatagramBatch", "Receiver", "datagram_counters", "recv_many_into", "send_many"]

tracemalloc_domain: Final[int]

__version__: str

if sys.version_info >= (3, 12):
    _BytesLike: TypeAlias = Buffer
else:
    # Before 3.12 NumPy's stubs do not say that an array is a buffer.
    class _Array(Protocol):
        @property
        def __array_interface__(self) -> dict[str, Any]: ...

    _BytesLike: TypeAlias = Buffer | _Array

class IntegrityError(RuntimeError):
    """The self-check found damage: a write past the end of a packet, or overwritten bookkeeping. Says what, and where."""

@final
class Allocator:
    """
    An allocator for packets: blocks that are freed in roughly the order in which they were allocated.

    Args:
        alignment: every packet starts at a multiple of this many bytes, and takes a multiple of it; a power of two
            from 16 to 4096.
        window_bytes: memory is taken from the system in windows of this many bytes; a power of two, 64 to 65536 times
            the alignment. `None` for 2048 times the alignment. Longer packets take several windows side by side; those longer than a region has room for (about 7.5 MiB) are taken from the system one by one.
        preallocated_windows: windows that the first allocation takes, and the fewest that `trim` leaves.
        memory_limit: the most bytes to take from the system, at least one window and its bookkeeping; beyond it allocation raises
            `MemoryError`. `None` for no limit.
        zero: whether packets come with every byte zero. Otherwise a new packet contains whatever earlier packets of
            this process left behind, or zeros.
        check: whether each call is surrounded by a self-check and writes past a packet's end are detected; for tests.
            Every call then takes time linear in the memory held, and raises `IntegrityError` when something is damaged.
        keep_empty_windows: empty windows kept for the next burst. Further ones go back to the system when no burst has needed them
            for some time.
        huge_pages: whether to ask for transparent huge pages (Linux).

    Raises `ValueError` for an invalid value. Memory is taken at the first allocation, not before.

    Safe with threads: the global interpreter lock serialises calls of an allocator and its packets.

    >>> from pktalloc import Allocator
    >>> with Allocator() as a:
    ...     packet = a.allocate(1400)
    ...     packet[:5] = b"hello"
    ...     packet.shrink(5)
    ...     packet.tobytes(), a.used_bytes
    (b'hello', 64)
    """
    def __new__(
        cls,
        *,
        alignment: SupportsIndex = 64,
        window_bytes: SupportsIndex | None = None,
        preallocated_windows: SupportsIndex = 2,
        memory_limit: SupportsIndex | None = None,
        zero: bool = False,
        check: bool = False,
        keep_empty_windows: SupportsIndex = 32,
        huge_pages: bool = False,
    ) -> Self: ...
    def allocate(self, size: SupportsIndex, headroom: SupportsIndex = 0) -> Packet:
        """
        Return a packet of `size` bytes (0 is allowed), with room for at least `headroom` bytes in front of them.

        The address of its first byte, not that of the headroom, is a multiple of the alignment. Its content is unspecified, unless the
        allocator was made with `zero=True`. Takes constant time, except when memory has to come from the system.

        Raises `ValueError` for a negative size or when the allocator is closed, `TypeError` for an argument that is no integer, and
        `MemoryError` when the system or the memory limit refuses; all packets are then as they were.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> packet = a.allocate(1400)
        >>> len(packet), packet.capacity, packet.address % 64
        (1400, 1408, 0)
        >>> packet = a.allocate(1400, headroom=14)
        >>> packet.headroom, packet.tailroom, packet.address % 64
        (64, 8, 0)
        """
    def allocate_many(self, size: SupportsIndex, count: SupportsIndex, headroom: SupportsIndex = 0) -> list[Packet]:
        """
        Return a list of `count` packets of `size` bytes each, or raise an error and allocate none. Each has room for at least
        `headroom` bytes in front.

        Cheaper than `count` calls of `allocate`, and raises the same errors; a negative count is a `ValueError`.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> burst = a.allocate_many(1400, 64)
        >>> len(burst), a.used_bytes
        (64, 90112)
        """
    def reallocate(self, packet: Packet, size: SupportsIndex, *, copy: bool = True) -> None:
        """
        Change the size of the packet, as `packet.resize(size, copy)` does.

        Raises `ValueError` for a packet of another allocator as well.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> packet = a.allocate(100)
        >>> a.reallocate(packet, 9000, copy=False)
        >>> len(packet)
        9000
        """
    def shrink(self, packet: Packet, size: SupportsIndex) -> None:
        """
        Shrink the packet to `size` bytes, as `packet.shrink(size)` does.

        Raises `ValueError` for a packet of another allocator as well.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> packet = a.allocate(2048)
        >>> a.shrink(packet, 900)
        >>> len(packet), packet.capacity
        (900, 960)
        """
    def free(self, packet: Packet) -> None:
        """
        Free the packet, as `packet.release()` does.

        Raises `ValueError` for a packet of another allocator or one that is released already, and `BufferError` while
        a buffer export of it is alive; then nothing has changed.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> packet = a.allocate(1400)
        >>> a.free(packet)
        >>> packet.released, a.used_bytes
        (True, 0)
        """
    if sys.platform == "linux":
        @overload
        def recv_many(
            self,
            sock: socket,
            count: SupportsIndex = 64,
            size: SupportsIndex = 2048,
            *,
            gro: bool = False,
            slices: Literal[False] = False,
            timestamps: bool = False,
            local_addresses: bool = False,
            ecn: bool = False,
            dropped: bool = False,
        ) -> DatagramBatch[Packet]:
            """
            Receive up to `count` datagrams in one system call, each into a packet of its size; return a `DatagramBatch`.

            Waits for the first datagram as `sock.recvfrom()` does: for ever, up to the socket's timeout (`TimeoutError`), or not at
            all (`BlockingIOError`). Further datagrams are received only if they have arrived already. `sock` is a `socket.socket` for datagrams:
            UDP over IPv4 or IPv6, a Unix socket, a packet socket. The kernel receives at most 1024 in a call. A datagram longer
            than `size` bytes is cut off, and `batch.truncated` says so.

            With `gro` the kernel may join datagrams of one flow, which takes about a tenth of the time; the batch contains them as
            they were sent, and may have more than `count` of them. With `slices` joined datagrams are `memoryview`s of one packet.
            `timestamps`, `local_addresses`, `ecn` and `dropped` ask the kernel for the batch's properties of these names.

            Raises `MemoryError` when there is no memory for the first packet. When there is none for a later one, the batch ends
            there, and `batch.waiting` says how many datagrams are kept for the next call on the same socket.

            >>> import socket
            >>> from pktalloc import Allocator
            >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            >>> receiver.bind(('127.0.0.1', 0))
            >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            >>> sender.bind(('127.0.0.1', 0))
            >>> sender.sendto(b'hello', receiver.getsockname())
            5
            >>> batch = Allocator().recv_many(receiver, 64)
            >>> [(bytes(packet), address == sender.getsockname()) for packet, address in batch]
            [(b'hello', True)]
            >>> receiver.close(), sender.close()
            (None, None)
            """
        @overload
        def recv_many(
            self,
            sock: socket,
            count: SupportsIndex = 64,
            size: SupportsIndex = 2048,
            *,
            gro: bool = False,
            slices: Literal[True],
            timestamps: bool = False,
            local_addresses: bool = False,
            ecn: bool = False,
            dropped: bool = False,
        ) -> DatagramBatch[memoryview]:
            """
            Receive up to `count` datagrams in one system call, each into a packet of its size; return a `DatagramBatch`.

            Waits for the first datagram as `sock.recvfrom()` does: for ever, up to the socket's timeout (`TimeoutError`), or not at
            all (`BlockingIOError`). Further datagrams are received only if they have arrived already. `sock` is a `socket.socket` for datagrams:
            UDP over IPv4 or IPv6, a Unix socket, a packet socket. The kernel receives at most 1024 in a call. A datagram longer
            than `size` bytes is cut off, and `batch.truncated` says so.

            With `gro` the kernel may join datagrams of one flow, which takes about a tenth of the time; the batch contains them as
            they were sent, and may have more than `count` of them. With `slices` joined datagrams are `memoryview`s of one packet.
            `timestamps`, `local_addresses`, `ecn` and `dropped` ask the kernel for the batch's properties of these names.

            Raises `MemoryError` when there is no memory for the first packet. When there is none for a later one, the batch ends
            there, and `batch.waiting` says how many datagrams are kept for the next call on the same socket.

            >>> import socket
            >>> from pktalloc import Allocator
            >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            >>> receiver.bind(('127.0.0.1', 0))
            >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            >>> sender.bind(('127.0.0.1', 0))
            >>> sender.sendto(b'hello', receiver.getsockname())
            5
            >>> batch = Allocator().recv_many(receiver, 64)
            >>> [(bytes(packet), address == sender.getsockname()) for packet, address in batch]
            [(b'hello', True)]
            >>> receiver.close(), sender.close()
            (None, None)
            """
        @overload
        def recv_many(
            self,
            sock: socket,
            count: SupportsIndex = 64,
            size: SupportsIndex = 2048,
            *,
            gro: bool = False,
            slices: bool,
            timestamps: bool = False,
            local_addresses: bool = False,
            ecn: bool = False,
            dropped: bool = False,
        ) -> DatagramBatch[Packet] | DatagramBatch[memoryview]:
            """
            Receive up to `count` datagrams in one system call, each into a packet of its size; return a `DatagramBatch`.

            Waits for the first datagram as `sock.recvfrom()` does: for ever, up to the socket's timeout (`TimeoutError`), or not at
            all (`BlockingIOError`). Further datagrams are received only if they have arrived already. `sock` is a `socket.socket` for datagrams:
            UDP over IPv4 or IPv6, a Unix socket, a packet socket. The kernel receives at most 1024 in a call. A datagram longer
            than `size` bytes is cut off, and `batch.truncated` says so.

            With `gro` the kernel may join datagrams of one flow, which takes about a tenth of the time; the batch contains them as
            they were sent, and may have more than `count` of them. With `slices` joined datagrams are `memoryview`s of one packet.
            `timestamps`, `local_addresses`, `ecn` and `dropped` ask the kernel for the batch's properties of these names.

            Raises `MemoryError` when there is no memory for the first packet. When there is none for a later one, the batch ends
            there, and `batch.waiting` says how many datagrams are kept for the next call on the same socket.

            >>> import socket
            >>> from pktalloc import Allocator
            >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            >>> receiver.bind(('127.0.0.1', 0))
            >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            >>> sender.bind(('127.0.0.1', 0))
            >>> sender.sendto(b'hello', receiver.getsockname())
            5
            >>> batch = Allocator().recv_many(receiver, 64)
            >>> [(bytes(packet), address == sender.getsockname()) for packet, address in batch]
            [(b'hello', True)]
            >>> receiver.close(), sender.close()
            (None, None)
            """

    @property
    def used_bytes(self) -> int:
        """Bytes of live packets, each rounded up to a multiple of the alignment. Takes constant time."""
    @property
    def allocated_bytes(self) -> int:
        """Bytes taken from the system: windows, bookkeeping and large blocks. Takes constant time."""
    @property
    def closed(self) -> bool:
        """Whether the allocator was closed."""
    def stats(self) -> Stats:
        """
        Return all current figures. Takes time linear in the number of windows.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> packets = a.allocate_many(1400, 100)
        >>> a.stats().live_packets
        100
        >>> a.stats()._asdict()['alignment']
        64
        """
    def windows(self) -> Windows:
        """
        Return the occupancy of every window, in order of address. A notebook shows it as a picture.

        >>> from pktalloc import Allocator
        >>> a = Allocator(preallocated_windows=1)
        >>> packet = a.allocate(1400)
        >>> [window.live_units for window in a.windows()]
        [22]
        """
    def integrity_check(self) -> None:
        """
        Check all bookkeeping, and with `check` on the bytes behind each packet.

        Takes time linear in the memory held. Raises `IntegrityError`, which says what is damaged and where.
        """
    def trim(self) -> int:
        """
        Give every page without a live byte back to the system, down to `preallocated_windows`; return how many bytes that was.

        Takes time linear in the number of windows.
        """
    def close(self) -> None:
        """
        Free all packets and give all memory back to the system. Closing twice is no error.

        Afterwards every use of the allocator and of its packets raises `ValueError`. Raises `BufferError` while a
        buffer export (a memoryview, an array) of any of its packets is alive; then nothing has changed.
        """
    def __enter__(self) -> Self:
        """
        Return the allocator, which is closed when the `with` block ends.

        If a buffer export is alive then, its memory is freed with the last export; every other use raises `ValueError`.

        >>> from pktalloc import Allocator
        >>> with Allocator() as a:
        ...     view = a.allocate(5).view
        ...     view[:] = b'hello'
        >>> a.closed, bytes(view)
        (True, b'hello')
        """
    def __exit__(self, *_exception: object) -> None:
        """Close the allocator; exported memory is freed with the last export."""
    def __reduce_ex__(self, _protocol: SupportsIndex) -> Never:
        """Allocators cannot be pickled or copied."""

@final
class Packet:
    r"""
    A packet: `size` bytes of writable, aligned memory, freed with the packet.

    Made by `Allocator.allocate`. A packet is a buffer like a `bytearray`: pass it to `socket.recv_into`, `memoryview`,
    `struct.pack_into`, `numpy.frombuffer` or `file.readinto`. Indexing gives and takes numbers from 0 to 255; a slice is
    a `memoryview` of the packet's own memory, and takes as many bytes as it has. Packets compare equal to anything
    bytes-like with the same bytes, and are not hashable.

    While a buffer export of a packet is alive, calls that would move or free its memory raise `BufferError`. After
    `release()`, or when the allocator is closed, every use raises `ValueError`.

    >>> from pktalloc import Allocator
    >>> a = Allocator()
    >>> packet = a.allocate(4)
    >>> packet[:] = b'\x01\x02\x03\x04'
    >>> packet[0], packet[-1], 3 in packet, packet == b'\x01\x02\x03\x04'
    (1, 4, True, True)
    >>> part = packet[1:3]
    >>> part[0] = 9
    >>> packet.hex(' ')
    '01 09 03 04'
    """
    def __new__(cls, made_by_allocators: Never, /) -> Self: ...
    __hash__: None  # type: ignore[assignment]
    @property
    def size(self) -> int:
        """The size in bytes, the same as `len(packet)`."""
    @property
    def capacity(self) -> int:
        """The largest size that the packet can have without moving: its size and its tailroom. Its block contains the headroom as well."""
    @property
    def headroom(self) -> int:
        """The bytes in front of the packet's, which `prepend` can take."""
    @property
    def tailroom(self) -> int:
        """The bytes behind the packet's, which `append` and `resize` can take without moving it."""
    @property
    def address(self) -> int:
        """The address of the packet's first byte; a multiple of the allocator's alignment, until `advance` or `prepend` changes it."""
    @property
    def released(self) -> bool:
        """Whether the memory was freed, by `release()` or because the allocator was closed."""
    @property
    def view(self) -> memoryview:
        """A `memoryview` of the whole packet, writable, in bytes; a new one each time."""
    def resize(self, size: SupportsIndex, copy: bool = True) -> None:
        """
        Change the size to `size` bytes, in place where there is room; otherwise the packet moves to another address.

        With `copy` the first `min(old, new)` bytes are kept; without it the content is unspecified afterwards, which is cheaper
        when the packet has to move.

        Raises `ValueError` for a negative size or when the packet is released, `MemoryError` when there is no memory, and
        `BufferError` while a buffer export is alive; then nothing has changed.

        >>> from pktalloc import Allocator
        >>> packet = Allocator().allocate(4)
        >>> packet[:] = b'head'
        >>> packet.resize(1000)
        >>> packet[:4].tobytes(), len(packet)
        (b'head', 1000)
        """
    def shrink(self, size: SupportsIndex) -> None:
        """
        Shrink to `size` bytes and free the rest at once, in whole units of the alignment. The address stays the same.

        Raises `ValueError` for a negative size, one above the present one, or when the packet is released, and `BufferError` while
        a buffer export is alive; then nothing has changed.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> packet = a.allocate(2048)
        >>> packet.shrink(900)  # the bytes that were received
        >>> len(packet), a.used_bytes
        (900, 960)
        """
    def prepend(self, data: _BytesLike) -> None:
        """
        Put bytes in front of the packet's, into its headroom. Nothing moves, and nothing but `data` is copied.

        Raises `ValueError` when the headroom is too small or the packet is released, and `BufferError` while a buffer export
        is alive; then nothing has changed.

        >>> from pktalloc import Allocator
        >>> packet = Allocator().allocate(7, headroom=8)
        >>> packet[:] = b'payload'
        >>> packet.prepend(b'header: ')
        >>> bytes(packet)
        b'header: payload'
        """
    def append(self, data: _BytesLike) -> None:
        """
        Put bytes behind the packet's, into its tailroom; where that is too small the packet grows, as by `resize`, and may
        move to another address.

        Raises `MemoryError` when there is no memory, `ValueError` when the packet is released, and `BufferError` while a
        buffer export is alive; then nothing has changed.

        >>> from pktalloc import Allocator
        >>> packet = Allocator().allocate(7)
        >>> packet[:] = b'payload'
        >>> packet.tailroom
        57
        >>> packet.append(b', tag')
        >>> bytes(packet), packet.tailroom
        (b'payload, tag', 52)
        """
    def advance(self, n: SupportsIndex) -> None:
        """
        Strip `n` bytes from the front, which become headroom.

        Raises `ValueError` when the packet has fewer or is released, and `BufferError` while a buffer export is alive; then
        nothing has changed.

        >>> from pktalloc import Allocator
        >>> packet = Allocator().allocate(15)
        >>> packet[:] = b'header: payload'
        >>> packet.advance(8)
        >>> bytes(packet), packet.headroom
        (b'payload', 8)
        """
    def split(self, size: SupportsIndex) -> list[Packet]:
        """
        Return a list of packets of `size` bytes each (the last one may be shorter), and release this one. Each owns its part.
        If the headroom and `size` are multiples of the alignment, the parts stay in place; otherwise all but the first
        are copies. They are also copies if the packet is longer than a window, or with `check` on.

        Raises `ValueError` for a size below 1 or when the packet is released, `MemoryError` when there is no memory, and
        `BufferError` while a buffer export is alive; then nothing has changed.

        >>> from pktalloc import Allocator
        >>> packet = Allocator().allocate(8)
        >>> packet[:] = b'abcdefgh'
        >>> [bytes(part) for part in packet.split(3)]
        [b'abc', b'def', b'gh']
        >>> packet.released
        True
        """
    def copy(self) -> Packet:
        """
        Return a new packet with the same content and headroom, from the same allocator.

        >>> from pktalloc import Allocator
        >>> packet = Allocator().allocate(4)
        >>> packet[:] = b'data'
        >>> other = packet.copy()
        >>> other[0] = 0x44
        >>> bytes(packet), bytes(other)
        (b'data', b'Data')
        """
    def __copy__(self) -> Packet:
        """The same as `copy()`."""
    def __deepcopy__(self, memo: object) -> Packet:
        """The same as `copy()`."""
    def release(self) -> None:
        """
        Free the packet's memory now rather than with its last reference. Releasing twice is no error.

        Raises `BufferError` while a buffer export is alive; then nothing has changed.

        >>> from pktalloc import Allocator
        >>> packet = Allocator().allocate(1400)
        >>> view = packet.view
        >>> packet.release()
        Traceback (most recent call last):
            ...
        BufferError: cannot release the packet: 1 buffer export alive; release it first
        >>> view.release()
        >>> packet.release()
        >>> packet.released
        True
        """
    def tobytes(self) -> bytes:
        r"""
        Return a copy of the content.

        >>> from pktalloc import Allocator
        >>> Allocator(zero=True).allocate(3).tobytes()
        b'\x00\x00\x00'
        """
    def hex(self, sep: str | bytes = ..., bytes_per_sep: SupportsIndex = 1) -> str:
        """
        Return the content in hexadecimal, two digits a byte, as `bytes.hex` does.

        >>> from pktalloc import Allocator
        >>> Allocator(zero=True).allocate(3).hex(':')
        '00:00:00'
        """
    def __len__(self) -> int:
        """Return len(self)."""
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int:
        """Return self[key]."""
    @overload
    def __getitem__(self, key: slice, /) -> memoryview:
        """Return self[key]."""
    @overload
    def __setitem__(self, key: SupportsIndex, value: SupportsIndex, /) -> None:
        """Set self[key] to value."""
    @overload
    def __setitem__(self, key: slice, value: _BytesLike, /) -> None:
        """Set self[key] to value."""
    def __contains__(self, key: SupportsIndex | _BytesLike, /) -> bool:
        """Return key in self."""
    def __iter__(self) -> Iterator[int]:
        """Implement iter(self)."""
    def __eq__(self, value: object, /) -> bool:
        """Return self==value."""
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Self:
        """
        Return the packet, which is released when the `with` block ends.

        If a buffer export is alive then, its memory is freed with the last export; every other use raises `ValueError`.

        >>> from pktalloc import Allocator
        >>> a = Allocator()
        >>> with a.allocate(1400) as packet:
        ...     packet[0] = 0x45
        >>> packet.released
        True
        """
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None:
        """Release the packet; exported memory is freed with the last export."""
    def __reduce__(self) -> Never:
        """Packets cannot be pickled; `tobytes()` copies the content."""
    def __reduce_ex__(self, protocol: SupportsIndex) -> Never:
        """Packets cannot be pickled; `tobytes()` copies the content."""

if sys.platform == "linux":
    # For type checkers: where an annotation is evaluated it has to be in quotes.
    _PacketT = TypeVar("_PacketT", bound=Packet | memoryview | bytes, default=Packet)

    @final
    class DatagramBatch(Generic[_PacketT]):
        """
        Datagrams that one call has received, a sequence of pairs of a packet and the address that it came from.

        `packets`, `addresses`, `sizes` and `truncated` have an element for each datagram, and so have `timestamps_ns`,
        `local_addresses`, `interfaces` and `ecn`, each element of which is `None` where the socket was not asked for them.
        Addresses are as `socket.recvfrom()` gives them. What `pktalloc.recv_many_into()` returns has no packets, and can be
        used as the number of rows that were filled: `array[:batch]`.
        """

        __hash__: None  # type: ignore[assignment]
        @property
        def packets(self) -> list[_PacketT]:
            """The packets, in the order in which they arrived."""
        @property
        def addresses(self) -> list[Any]:
            """Who sent each of them."""
        @property
        def sizes(self) -> list[int]:
            """Bytes of each."""
        @property
        def truncated(self) -> list[bool]:
            """Whether each was longer than the room that it was received into, so that its end is missing."""
        @property
        def timestamps_ns(self) -> list[int | None]:
            """When the kernel received each, in nanoseconds since 1970."""
        @property
        def local_addresses(self) -> list[str | None]:
            """The address that each was sent to, that of a multicast group included."""
        @property
        def interfaces(self) -> list[int | None]:
            """The number of the interface that each came in by: with `local_addresses`."""
        @property
        def ecn(self) -> list[int | None]:
            """The congestion bits of each: 0 not capable, 1 and 2 capable, 3 congestion experienced."""
        @property
        def dropped(self) -> int | None:
            """
            How many datagrams the socket had dropped when the last of these arrived, since it was made; `None` where it was
            not asked. The kernel says it with the first datagram that follows a loss, and from then on.
            """
        @property
        def joined(self) -> int:
            """How many of these the kernel had joined."""
        @property
        def waiting(self) -> int:
            """How many datagrams were received and are kept for the next call, because the allocator had no memory for them."""
        def __len__(self) -> int:
            """Return len(self)."""
        def __index__(self) -> int:
            """Return self converted to an integer, if self is suitable for use as an index into a list."""
        def __int__(self) -> int:
            """int(self)"""
        def __iter__(self) -> Iterator[tuple[_PacketT, Any]]:
            """Implement iter(self)."""
        @overload
        def __getitem__(self, key: SupportsIndex, /) -> tuple[_PacketT, Any]:
            """Return self[key]."""
        @overload
        def __getitem__(self, key: slice, /) -> list[tuple[_PacketT, Any]]:
            """Return self[key]."""
        def __eq__(self, value: object, /) -> bool:
            """Return self==value."""
        def __lt__(self, value: SupportsIndex, /) -> bool:
            """Return self<value."""
        def __le__(self, value: SupportsIndex, /) -> bool:
            """Return self<=value."""
        def __gt__(self, value: SupportsIndex, /) -> bool:
            """Return self>value."""
        def __ge__(self, value: SupportsIndex, /) -> bool:
            """Return self>=value."""

    @final
    class Receiver:
        """
        Receives datagrams from one socket without ever waiting: what `pktalloc.aio` is built on.

        `receive(allocator)` returns a batch, or `None` when no datagram has arrived; without an allocator the packets are
        `bytes`. Nothing else may receive from the socket. It reads the socket's descriptor once, so stop receiving before
        you close it.
        """
        def __new__(cls, sock: socket, count: int = 64, size: int = 65536, *, gro: bool = False) -> Self: ...
        @overload
        def receive(self, allocator: None = None) -> DatagramBatch[bytes] | None:
            """Return the datagrams that have arrived as a batch, or `None`; raise the system's errors."""
        @overload
        def receive(self, allocator: Allocator) -> DatagramBatch[Packet] | None:
            """Return the datagrams that have arrived as a batch, or `None`; raise the system's errors."""
        @overload
        def receive(self, allocator: Allocator | None) -> DatagramBatch[Packet] | DatagramBatch[bytes] | None:
            """Return the datagrams that have arrived as a batch, or `None`; raise the system's errors."""
        def deliver(self, transport: Any, buffer: Sized, allocator: Allocator | None = None) -> None:
            """
            Give the protocol of a transport, `transport._protocol`, one datagram after the other.

            Those of the last call come first; when there are none, what is there is received. Where more is to be done than
            that, `transport._delivered(left, error, in_callback)` is called: when there is something in `buffer`, which the
            protocol has sent, when it has called `stop()` and some are left, and when it (`in_callback`) or the system has
            raised something. A datagram whose callback has raised counts as delivered.
            """
        @property
        def delivering(self) -> bool:
            """Whether datagrams are being delivered: what is sent meanwhile can leave together."""
        def stop(self) -> None:
            """End `deliver()` after the datagram that it delivers now."""
        @property
        def waiting(self) -> int:
            """How many datagrams were received and are kept for the next call, because there was no memory for them."""

# What follows is for the package's own command line.
def load(
    file: str | PathLike[str],
    *,
    fd: int | None = None,
    strict: bool = False,
    depth: int | None = None,
    delay_ms: float | None = None,
    link: str | PathLike[str] | None = None,
    copies: int = 1,
    progress: Callable[[str, int, int], object] | None = None,
) -> tuple[ReplayProgram, dict[str, Any]]:
    """
    Read a capture or a trace and lay out its replay; see docs/replay.md.

    `fd` is read instead of the file where it is given, and stays open. `progress(phase, done, total)` is called every
    few milliseconds (a total of 0: not known); what it raises ends the work. Returns the program and what the file
    holds.
    """

def begin_recording(fd: int, slots: int, least: int, most: int) -> None:
    """Make an empty file one that the recorder can write to: `slots` calls, of blocks of `least` to `most` bytes."""

def end_recording(fd: int, out: int, compress: bool) -> dict[str, int]:
    """
    Write what was recorded in a file as a call trace, compressed with gzip or plain; what it holds, and what was left
    out.
    """

recorder: bytes | None

@final
class ReplayProgram:
    """A program of allocations and frees."""
    @property
    def units(self) -> int:
        """Packets, or calls about blocks: what a time is divided by."""
    def write(self, fd: int) -> None:
        """Write it to a descriptor, for another process."""
    @staticmethod
    def read(fd: int) -> ReplayProgram:
        """Read what `write` wrote."""
    def __len__(self) -> int:
        """Return len(self)."""
    def head(self, steps: int) -> ReplayProgram:
        """The first steps, and frees of what is live then."""
    def profile(self) -> dict[str, Any]:
        """
        Sizes (upper ends of ranges, with counts), lifetimes (by doublings of later allocations) and live bytes (after
        numbers of steps).
        """

@final
class ReplayRunner:
    """One allocator that runs a program."""
    def __new__(
        cls,
        program: ReplayProgram,
        allocator: str | PathLike[str],
        *,
        alignment: int | None = None,
        window_bytes: int | None = None,
        preallocated_windows: int | None = None,
        keep_empty_windows: int | None = None,
        memory_limit: int | None = None,
        zero: bool = False,
        check: bool = False,
        huge_pages: bool = False,
    ) -> Self: ...
    def first_pass(self, progress: Callable[[str, int, int], object] | None = None) -> dict[str, Any]:
        """Run the program once over all bytes; what was found."""
    def begin(self) -> None:
        """Begin again with a new allocator."""
    def passes_per_round(self) -> int:
        """How often the program must run for a round to be long enough."""
    def round(self, passes: int) -> float:
        """Run the program as often as told; seconds."""
    def windows_at_peak(self, most: int | None = None) -> tuple[Windows, int]:
        """The windows when the most bytes are live, at most so many of them, and how many there are."""

if sys.platform == "linux":
    def recv_many_into(
        sock: socket,
        rows: _BytesLike,
        *,
        timestamps: bool = False,
        local_addresses: bool = False,
        ecn: bool = False,
        dropped: bool = False,
    ) -> DatagramBatch[Never]:
        """
        Receive datagrams into the rows of a writable buffer with two dimensions, such as a NumPy array, in one system call.

        Receives at least one datagram and at most one for each row, and waits as `sock.recv_into()` does. Returns a
        `DatagramBatch` without packets, which can be used as the number of rows that were filled: `array[:batch]`. Its
        `sizes` are the bytes received into each row. A datagram longer than its row is cut off, and `truncated` says so.

        >>> import socket
        >>> import pktalloc
        >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        >>> receiver.bind(('127.0.0.1', 0))
        >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        >>> sender.sendto(b'hello', receiver.getsockname())
        5
        >>> rows = memoryview(bytearray(64 * 1500)).cast('B', (64, 1500))
        >>> batch = pktalloc.recv_many_into(receiver, rows)
        >>> len(batch), batch.sizes
        (1, [5])
        >>> receiver.close(), sender.close()
        (None, None)
        """
    def send_many(
        sock: socket, packets: Iterable[_BytesLike | tuple[_BytesLike, Any]], address: Any = None, *, gso: bool = True
    ) -> int:
        """
        Send many datagrams in few system calls; return how many went.

        `packets` are packets or any other bytes-like objects; `address` is one address for all of them, a list with one for
        each, or nothing on a connected socket. Without an address, `packets` may be pairs of a packet and its address: a
        `DatagramBatch` is, so that `send_many(sock, batch)` sends everything back.

        Waits for room as `sock.sendto()` does. When a datagram fails, those before it have gone, and their number is
        returned; the next call, with the rest, raises the error if it lasts. An error of the first one is raised at once,
        and so is everything that is wrong with the arguments, before anything is sent.

        Datagrams of equal size to one address, one after the other, leave as one that the kernel or the network card cuts,
        where they can; `gso=False` keeps them apart.

        >>> import socket
        >>> import pktalloc
        >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        >>> receiver.bind(('127.0.0.1', 0))
        >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        >>> pktalloc.send_many(sender, [b'one', b'two'], receiver.getsockname())
        2
        >>> receiver.recv(100), receiver.recv(100)
        (b'one', b'two')
        >>> receiver.close(), sender.close()
        (None, None)
        """
    def datagram_counters() -> dict[str, int]:
        """
        Return what all calls of this process have done so far, as a dictionary of numbers.

        'receive_calls' and 'send_calls' are system calls, 'received' and 'sent' datagrams; 'received_joined' and
        'sent_joined' say how many of them the kernel has joined or cut (gro, gso), and 'send_refused' how many calls with
        joined datagrams a kernel or a network card has refused, so that they went one by one.

        >>> import pktalloc
        >>> counters = pktalloc.datagram_counters()
        >>> counters['received'] >= counters['received_joined']
        True
        """
