//! The texts that `help()` shows for what is not made by PyO3.

use core::ffi::CStr;

pub(in crate::python) const RECV_MANY: &CStr = c"recv_many($self, sock, count=64, size=2048, *, gro=False, slices=False, timestamps=False, local_addresses=False, ecn=False, dropped=False)
--

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
";
