//! The texts that `help()` shows for what is not made by PyO3: the signature, an empty section, the text.

use core::ffi::CStr;

pub(super) const ALLOCATOR: &CStr = c"Allocator(*, alignment=64, window_bytes=None, preallocated_windows=2, \
memory_limit=None, zero=False, check=False, keep_empty_windows=32, huge_pages=False)
--

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
...     packet[:5] = b\"hello\"
...     packet.shrink(5)
...     packet.tobytes(), a.used_bytes
(b'hello', 64)
";

pub(super) const USED_BYTES: &CStr = c"Bytes of live packets, each rounded up to a multiple of the alignment. Takes \
constant time.";

pub(super) const ALLOCATED_BYTES: &CStr =
    c"Bytes taken from the system: windows, bookkeeping and large blocks. Takes constant time.";

pub(super) const CLOSED: &CStr = c"Whether the allocator was closed.";

pub(super) const ALLOCATOR_STATS: &CStr = c"stats($self)
--

Return all current figures. Takes time linear in the number of windows.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> packets = a.allocate_many(1400, 100)
>>> a.stats().live_packets
100
>>> a.stats()._asdict()['alignment']
64
";

pub(super) const ALLOCATOR_WINDOWS: &CStr = c"windows($self)
--

Return the occupancy of every window, in order of address. A notebook shows it as a picture.

>>> from pktalloc import Allocator
>>> a = Allocator(preallocated_windows=1)
>>> packet = a.allocate(1400)
>>> [window.live_units for window in a.windows()]
[22]
";

pub(super) const INTEGRITY_CHECK: &CStr = c"integrity_check($self)
--

Check all bookkeeping, and with `check` on the bytes behind each packet.

Takes time linear in the memory held. Raises `IntegrityError`, which says what is damaged and where.
";

pub(super) const TRIM: &CStr = c"trim($self)
--

Give every page without a live byte back to the system, down to `preallocated_windows`; return how many bytes that was.

Takes time linear in the number of windows.
";

pub(super) const CLOSE: &CStr = c"close($self)
--

Free all packets and give all memory back to the system. Closing twice is no error.

Afterwards every use of the allocator and of its packets raises `ValueError`. Raises `BufferError` while a
buffer export (a memoryview, an array) of any of its packets is alive; then nothing has changed.
";

pub(super) const ALLOCATOR_ENTER: &CStr = c"__enter__($self)
--

Return the allocator, which is closed when the `with` block ends.

If a buffer export is alive then, its memory is freed with the last export; every other use raises `ValueError`.

>>> from pktalloc import Allocator
>>> with Allocator() as a:
...     view = a.allocate(5).view
...     view[:] = b'hello'
>>> a.closed, bytes(view)
(True, b'hello')
";

pub(super) const ALLOCATOR_EXIT: &CStr = c"__exit__($self, /, *exc_info)
--

Close the allocator; exported memory is freed with the last export.
";

pub(super) const ALLOCATOR_REDUCE: &CStr = c"__reduce__($self)
--

Allocators cannot be pickled or copied.
";

pub(super) const ALLOCATOR_REDUCE_EX: &CStr = c"__reduce_ex__($self, protocol)
--

Allocators cannot be pickled or copied.
";

pub(super) const ALLOCATE: &CStr = c"allocate($self, size, headroom=0)
--

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
";

pub(super) const ALLOCATE_MANY: &CStr = c"allocate_many($self, size, count, headroom=0)
--

Return a list of `count` packets of `size` bytes each, or raise an error and allocate none. Each has room for at least
`headroom` bytes in front.

Cheaper than `count` calls of `allocate`, and raises the same errors; a negative count is a `ValueError`.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> burst = a.allocate_many(1400, 64)
>>> len(burst), a.used_bytes
(64, 90112)
";

pub(super) const FREE: &CStr = c"free($self, packet)
--

Free the packet, as `packet.release()` does.

Raises `ValueError` for a packet of another allocator or one that is released already, and `BufferError` while
a buffer export of it is alive; then nothing has changed.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> packet = a.allocate(1400)
>>> a.free(packet)
>>> packet.released, a.used_bytes
(True, 0)
";

pub(super) const SHRINK_PACKET: &CStr = c"shrink($self, packet, size)
--

Shrink the packet to `size` bytes, as `packet.shrink(size)` does.

Raises `ValueError` for a packet of another allocator as well.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> packet = a.allocate(2048)
>>> a.shrink(packet, 900)
>>> len(packet), packet.capacity
(900, 960)
";

pub(super) const REALLOCATE: &CStr = c"reallocate($self, packet, size, *, copy=True)
--

Change the size of the packet, as `packet.resize(size, copy)` does.

Raises `ValueError` for a packet of another allocator as well.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> packet = a.allocate(100)
>>> a.reallocate(packet, 9000, copy=False)
>>> len(packet)
9000
";

pub(super) const PACKET: &CStr = c"A packet: `size` bytes of writable, aligned memory, freed with the packet.

Made by `Allocator.allocate`. A packet is a buffer like a `bytearray`: pass it to `socket.recv_into`, `memoryview`,
`struct.pack_into`, `numpy.frombuffer` or `file.readinto`. Indexing gives and takes numbers from 0 to 255; a slice is
a `memoryview` of the packet's own memory, and takes as many bytes as it has. Packets compare equal to anything
bytes-like with the same bytes, and are not hashable.

While a buffer export of a packet is alive, calls that would move or free its memory raise `BufferError`. After
`release()`, or when the allocator is closed, every use raises `ValueError`.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> packet = a.allocate(4)
>>> packet[:] = b'\\x01\\x02\\x03\\x04'
>>> packet[0], packet[-1], 3 in packet, packet == b'\\x01\\x02\\x03\\x04'
(1, 4, True, True)
>>> part = packet[1:3]
>>> part[0] = 9
>>> packet.hex(' ')
'01 09 03 04'
";

pub(super) const RESIZE: &CStr = c"resize($self, size, copy=True)
--

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
";

pub(super) const SHRINK: &CStr = c"shrink($self, size)
--

Shrink to `size` bytes and free the rest at once, in whole units of the alignment. The address stays the same.

Raises `ValueError` for a negative size, one above the present one, or when the packet is released, and `BufferError` while
a buffer export is alive; then nothing has changed.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> packet = a.allocate(2048)
>>> packet.shrink(900)  # the bytes that were received
>>> len(packet), a.used_bytes
(900, 960)
";

pub(super) const PREPEND: &CStr = c"prepend($self, data)
--

Put bytes in front of the packet's, into its headroom. Nothing moves, and nothing but `data` is copied.

Raises `ValueError` when the headroom is too small or the packet is released, and `BufferError` while a buffer export
is alive; then nothing has changed.

>>> from pktalloc import Allocator
>>> packet = Allocator().allocate(7, headroom=8)
>>> packet[:] = b'payload'
>>> packet.prepend(b'header: ')
>>> bytes(packet)
b'header: payload'
";

pub(super) const ADVANCE: &CStr = c"advance($self, n)
--

Strip `n` bytes from the front, which become headroom.

Raises `ValueError` when the packet has fewer or is released, and `BufferError` while a buffer export is alive; then
nothing has changed.

>>> from pktalloc import Allocator
>>> packet = Allocator().allocate(15)
>>> packet[:] = b'header: payload'
>>> packet.advance(8)
>>> bytes(packet), packet.headroom
(b'payload', 8)
";

pub(super) const APPEND: &CStr = c"append($self, data)
--

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
";

pub(super) const SPLIT: &CStr = c"split($self, size)
--

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
";

pub(super) const COPY: &CStr = c"copy($self)
--

Return a new packet with the same content and headroom, from the same allocator.

>>> from pktalloc import Allocator
>>> packet = Allocator().allocate(4)
>>> packet[:] = b'data'
>>> other = packet.copy()
>>> other[0] = 0x44
>>> bytes(packet), bytes(other)
(b'data', b'Data')
";

pub(super) const DUNDER_COPY: &CStr = c"__copy__($self)
--

The same as `copy()`.
";

pub(super) const DEEPCOPY: &CStr = c"__deepcopy__($self, memo)
--

The same as `copy()`.
";

pub(super) const RELEASE: &CStr = c"release($self)
--

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
";

pub(super) const TOBYTES: &CStr = c"tobytes($self)
--

Return a copy of the content.

>>> from pktalloc import Allocator
>>> Allocator(zero=True).allocate(3).tobytes()
b'\\x00\\x00\\x00'
";

pub(super) const HEX: &CStr = c"hex($self, sep=<unrepresentable>, bytes_per_sep=1)
--

Return the content in hexadecimal, two digits a byte, as `bytes.hex` does.

>>> from pktalloc import Allocator
>>> Allocator(zero=True).allocate(3).hex(':')
'00:00:00'
";

pub(super) const ENTER: &CStr = c"__enter__($self)
--

Return the packet, which is released when the `with` block ends.

If a buffer export is alive then, its memory is freed with the last export; every other use raises `ValueError`.

>>> from pktalloc import Allocator
>>> a = Allocator()
>>> with a.allocate(1400) as packet:
...     packet[0] = 0x45
>>> packet.released
True
";

pub(super) const EXIT: &CStr = c"__exit__($self, /, *exc_info)
--

Release the packet; exported memory is freed with the last export.
";

pub(super) const REDUCE: &CStr = c"__reduce__($self)
--

Packets cannot be pickled; `tobytes()` copies the content.
";

pub(super) const REDUCE_EX: &CStr = c"__reduce_ex__($self, protocol)
--

Packets cannot be pickled; `tobytes()` copies the content.
";

pub(super) const VIEW: &CStr = c"A `memoryview` of the whole packet, writable, in bytes; a new one each time.";

pub(super) const SIZE: &CStr = c"The size in bytes, the same as `len(packet)`.";

pub(super) const CAPACITY: &CStr =
    c"The largest size that the packet can have without moving: its size and its tailroom. Its \
block contains the headroom as well.";

pub(super) const HEADROOM: &CStr = c"The bytes in front of the packet's, which `prepend` can take.";

pub(super) const TAILROOM: &CStr =
    c"The bytes behind the packet's, which `append` and `resize` can take without moving it.";

pub(super) const ADDRESS: &CStr =
    c"The address of the packet's first byte; a multiple of the allocator's alignment, until `advance` or \
`prepend` changes it.";

pub(super) const RELEASED: &CStr = c"Whether the memory was freed, by `release()` or because the allocator was \
closed.";
