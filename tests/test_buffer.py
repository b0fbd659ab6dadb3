"""A packet as a buffer: the answers of a bytearray to every request, and everything that takes a buffer."""

import array
import asyncio
import ctypes
import hashlib
import importlib
import io
import itertools
import os
import pickle
import re
import socket
import ssl
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pktalloc import Allocator, Packet

CONTENT = bytes(range(200, 256)) + bytes(range(200))
"""256 bytes, each value once, and not in order."""


@pytest.fixture
def packet(packet_of: Callable[[bytes], Packet]) -> Packet:
    return packet_of(CONTENT)


def requests() -> list[int]:
    """Every combination of the flags that a buffer request may have."""
    testbuffer = importlib.import_module("_testbuffer")
    single = ["WRITABLE", "FORMAT", "ND", "STRIDES", "C_CONTIGUOUS", "F_CONTIGUOUS", "ANY_CONTIGUOUS", "INDIRECT"]
    values = [getattr(testbuffer, f"PyBUF_{name}") for name in single]
    combined = {0}
    for count in range(1, len(values) + 1):
        for chosen in itertools.combinations(values, count):
            flags = 0
            for value in chosen:
                flags |= value
            combined.add(flags)
    return sorted(combined)


def answer(testbuffer: object, exporter: object, flags: int) -> tuple[object, ...]:
    """Everything that the exporter says to one request."""
    try:
        view = testbuffer.ndarray(exporter, getbuf=flags)  # type: ignore[attr-defined]
    except (BufferError, TypeError, ValueError) as error:
        return (type(error), str(error))
    return (
        view.obj is exporter,
        view.nbytes,
        view.readonly,
        view.itemsize,
        view.format,
        view.ndim,
        view.shape,
        view.strides,
        view.suboffsets,
        view.c_contiguous,
        view.f_contiguous,
        view.contiguous,
        view.tobytes() if flags & testbuffer.PyBUF_ND == testbuffer.PyBUF_ND else None,  # type: ignore[attr-defined]
    )


def test_every_request_is_answered_as_a_bytearray_answers_it(packet: Packet) -> None:
    testbuffer = pytest.importorskip("_testbuffer")
    expected = bytearray(CONTENT)
    flags = requests()
    assert len(flags) > 30
    for request in flags:
        assert answer(testbuffer, packet, request) == answer(testbuffer, expected, request), hex(request)
    packet.release()


def test_a_request_without_a_view_is_a_buffer_error(packet: Packet) -> None:
    testcapi = pytest.importorskip("_testcapi")
    with pytest.raises(BufferError, match="without a view"):
        testcapi.getbuffer_with_null_view(packet)
    packet.release()


def test_a_refused_request_is_not_counted(packet: Packet) -> None:
    packet.release()
    for _ in range(3):
        with pytest.raises(ValueError, match="released"):
            memoryview(packet)
    assert "released" in repr(packet)


def test_the_view_is_what_a_bytearrays_is(packet: Packet) -> None:
    view, expected = packet.view, memoryview(bytearray(CONTENT))
    for name in (
        *("nbytes", "readonly", "format", "itemsize", "ndim", "shape", "strides", "suboffsets"),
        *("c_contiguous", "f_contiguous", "contiguous"),
    ):
        assert getattr(view, name) == getattr(expected, name), name
    assert view.obj is packet
    assert packet[10:20].obj is packet
    assert view == expected
    assert view[::-3] == expected[::-3]
    assert view[3:251].cast("Q")[1:-1] == expected[3:251].cast("Q")[1:-1]
    assert view.cast("B", (16, 16))[3, 4] == expected.cast("B", (16, 16))[3, 4]
    assert packet[5:100][7:9][1] == CONTENT[13]


def test_views_write_through(packet: Packet) -> None:
    packet.view[0] = 1
    packet[1:3][0] = 2
    packet.view.cast("I")[1] = 0x01020304
    assert (packet[0], packet[1]) == (1, 2)
    assert int.from_bytes(packet[4:8], "little" if array.array("H", [1]).tobytes()[0] else "big") == 0x01020304


def test_numpy(packet: Packet, offset: int) -> None:
    np = pytest.importorskip("numpy")
    makes: list[Callable[[], Any]] = [
        lambda: np.frombuffer(packet, dtype=np.uint8),
        lambda: np.asarray(packet.view),
        lambda: np.asarray(packet),
    ]
    for make in makes:
        made = make()
        assert made.dtype == np.uint8
        assert made.shape == (256,)
        assert made.flags.writeable
        assert made.tobytes() == CONTENT
        with pytest.raises(BufferError, match="1 buffer export"):
            packet.release()
        made[0] = 77
        assert packet[0] == 77
        made[0] = CONTENT[0]
        del made
    words = np.frombuffer(packet, dtype=">u2", offset=2, count=3)
    assert words.tolist() == list(struct.unpack(">3H", CONTENT[2:8]))
    assert packet.address % 64 == offset
    assert words.ctypes.data == packet.address + 2
    del words
    packet[:4] = np.array([1, 2, 3, 4], dtype=np.uint8)
    packet[4:12:2] = np.arange(8, dtype=np.uint8)[::2]
    assert packet[:12:1].tolist()[:4] == [1, 2, 3, 4]
    assert packet[4:12:2].tolist() == [0, 2, 4, 6]
    packet.release()


def test_struct(packet: Packet) -> None:
    struct.pack_into("!BBH", packet, 4, 0x45, 0, 1400)
    assert struct.unpack_from("!BBH", packet, 4) == (0x45, 0, 1400)
    assert next(struct.iter_unpack("!H", packet[6:8])) == (1400,)
    packet.release()


def test_ctypes(packet: Packet) -> None:
    class Header(ctypes.BigEndianStructure):
        _fields_ = (("version", ctypes.c_uint8), ("flags", ctypes.c_uint8), ("length", ctypes.c_uint16))

    header = Header.from_buffer(packet, 8)
    header.length = 0x0102
    assert packet[10:12].tobytes() == b"\x01\x02"
    assert ctypes.addressof(header) == packet.address + 8
    with pytest.raises(BufferError):
        packet.release()
    del header
    packet.release()


def test_files(packet: Packet, tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(bytes(reversed(CONTENT)))
    with path.open("rb", buffering=0) as raw:
        assert raw.readinto(packet) == 256
    assert packet == bytes(reversed(CONTENT))
    with path.open("rb") as buffered:
        assert buffered.readinto(packet[128:]) == 128
    assert packet[128:] == CONTENT[:-129:-1]
    with path.open("wb") as out:
        assert out.write(packet) == 256
    assert path.read_bytes() == packet
    assert io.BytesIO(packet).getvalue() == packet
    target = io.BytesIO()
    target.writelines([packet, packet[:1]])
    assert target.getvalue() == packet.tobytes() + packet[:1]
    packet.release()


@pytest.mark.skipif(not hasattr(os, "readv"), reason="no scattered reads here")
def test_scattered_reads_and_writes(allocator: Allocator) -> None:
    readable, writable = os.pipe()
    one, two = allocator.allocate(3), allocator.allocate(5)
    one[:], two[:] = b"abc", b"defgh"
    assert os.writev(writable, [one, two]) == 8
    one[:], two[:] = b"   ", b"     "
    assert os.readv(readable, [two, one]) == 8
    assert (two.tobytes(), one.tobytes()) == (b"abcde", b"fgh")
    os.close(readable)
    os.close(writable)
    one.release()
    two.release()


def test_sockets(allocator: Allocator) -> None:
    left, right = socket.socketpair()
    with left, right:
        packet = allocator.allocate(64)
        assert left.send(b"one") == 3
        assert right.recv_into(packet) == 3
        left.sendall(packet[:3])
        assert right.recv_into(packet[10:]) == 3
        assert packet[10:13].tobytes() == b"one"
        left.send(b"three")
        assert right.recv_into(packet, 2) == 2
        assert right.recvfrom_into(packet[20:])[0] == 3
        assert (packet[:2].tobytes(), packet[20:23].tobytes()) == (b"th", b"ree")
        if hasattr(left, "sendmsg"):
            assert left.sendmsg([packet[:2], packet]) == 66
            assert right.recvmsg_into([packet[:2], packet[2:64]])[0] == 64
        packet.release()


def test_a_receive_that_fails_leaves_no_export(allocator: Allocator) -> None:
    left, right = socket.socketpair()
    with left, right:
        right.setblocking(False)
        packet = allocator.allocate(64)
        with pytest.raises(BlockingIOError):
            right.recv_into(packet)
        packet.release()
        # The interpreter's argument parser replaces the ValueError by one of its own.
        with pytest.raises((TypeError, ValueError)):
            right.recv_into(packet)


def test_asyncio_receives_into_packets(allocator: Allocator) -> None:
    async def receive() -> bytes:
        left, right = socket.socketpair()
        with left, right:
            right.setblocking(False)
            packet = allocator.allocate(64)
            loop = asyncio.get_running_loop()
            receiving = loop.create_task(loop.sock_recv_into(right, packet))
            await asyncio.sleep(0)
            left.send(b"datagram")
            packet.shrink(await receiving)
            return packet.tobytes()

    assert asyncio.run(receive()) == b"datagram"
    assert allocator.used_bytes == 0


class Receiver(asyncio.BufferedProtocol):
    """Receives a stream into packets of 1000 bytes."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.offered = allocator.allocate(1000)
        self.packets: list[Packet] = []
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> Packet:  # noqa: ARG002
        return self.offered

    def buffer_updated(self, nbytes: int) -> None:
        self.offered.shrink(nbytes)
        self.packets.append(self.offered)
        self.offered = self.allocator.allocate(1000)

    def connection_lost(self, exc: Exception | None) -> None:
        assert exc is None
        self.closed.set_result(None)


def test_asyncio_buffered_protocol(allocator: Allocator) -> None:
    content = os.urandom(10_000)

    async def receive() -> bytes:
        left, right = socket.socketpair()
        _, protocol = await asyncio.get_running_loop().create_connection(lambda: Receiver(allocator), sock=right)
        left.sendall(content)
        left.close()
        await protocol.closed
        return b"".join(protocol.packets)

    assert asyncio.run(receive()) == content


def test_hashes_checksums_and_compression(packet: Packet) -> None:
    assert hashlib.sha256(packet).digest() == hashlib.sha256(CONTENT).digest()
    assert zlib.crc32(packet) == zlib.crc32(CONTENT)
    assert zlib.decompress(zlib.compress(packet)) == packet
    packet.release()


def test_ssl_memory_bio(packet: Packet) -> None:
    bio = ssl.MemoryBIO()
    assert bio.write(packet) == 256
    assert bio.read() == CONTENT
    packet.release()


def test_pickle_out_of_band(packet: Packet) -> None:
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(pickle.PickleBuffer(packet), protocol=5, buffer_callback=buffers.append)
    restored = pickle.loads(pickled, buffers=buffers)  # noqa: S301
    assert memoryview(restored).obj is packet
    with pytest.raises(BufferError):
        packet.release()
    restored.release()
    for buffer in buffers:
        buffer.release()
    packet.release()


def test_conversions(packet: Packet) -> None:
    assert bytes(packet) == CONTENT
    assert bytearray(packet) == CONTENT
    assert list(packet) == list(CONTENT)
    assert array.array("B", packet).tobytes() == CONTENT
    assert b"".join([packet, packet]) == CONTENT * 2
    assert b"%b" % packet == CONTENT  # type: ignore[str-format]
    assert re.search(rb"\x00\x01\x02", packet)
    assert int.from_bytes(packet[:4], "big") == int.from_bytes(CONTENT[:4], "big")
    packet.release()
