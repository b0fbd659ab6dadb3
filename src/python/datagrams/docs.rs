//! The texts that `help()` shows for what is not made by PyO3.

use core::ffi::CStr;

pub(in crate::python) const RECV_MANY: &CStr = c"recv_many($self, sock, count=64, size=2048, *, gro=False, slices=False, timestamps=False, local_addresses=False, ecn=False, dropped=False)
--

Receive up to `count` datagrams in one system call, each into a packet of its size; return a `DatagramBatch`.

Takes what is there, at least one datagram, and waits for the first one as `sock.recvfrom()` does: for ever, up to
the socket's timeout (`TimeoutError`), or not at all (`BlockingIOError`). `sock` is a `socket.socket` for datagrams:
UDP over IPv4 or IPv6, a Unix socket, a packet socket. The kernel takes at most 1024 at a time. What of a datagram
is beyond `size` bytes is cut off, and `batch.truncated` says so.

With `gro` the kernel may join datagrams of one flow, which costs a tenth; they come out as they were sent, and
there may be more than `count` of them. With `slices` those that were joined are `memoryview`s of one packet.
`timestamps`, `local_addresses`, `ecn` and `dropped` ask the socket for what the batch tells under these names.

When the allocator has no memory for the first packet, that is a `MemoryError`; for a later one, the batch ends
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
