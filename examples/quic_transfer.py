"""aioquic, unchanged, on transports that work in batches: a server, a client, and a transfer between them.

`pktalloc.aio.install()` is all that it takes. `python examples/quic_transfer.py [MEGABYTES]` runs server and client in
two processes, with and without, and compares their processor time. Needs `pip install aioquic`.
"""

import asyncio
import datetime
import multiprocessing
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated, QuicEvent, StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pktalloc import aio

PROTOCOL = "bytes"


class Sender(QuicConnectionProtocol):
    """The server's side: answers a number with as many bytes."""

    def quic_event_received(self, event: QuicEvent) -> None:
        """Send what was asked for."""
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.send_stream_data(event.stream_id, bytes(int(event.data)), end_stream=True)
            self.transmit()


class Reader(QuicConnectionProtocol):
    """The client's side: counts what comes."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        """Start with nothing received."""
        super().__init__(*arguments, **keywords)
        self.received = 0
        self.done = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Count."""
        if isinstance(event, StreamDataReceived):
            self.received += len(event.data)
            if event.end_stream:
                self.done.set()
        elif isinstance(event, ProtocolNegotiated):
            pass


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this run."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "certificate.pem", folder / "key.pem"


def run_server(pipe: Connection, folder: str, batches: bool) -> None:
    """Serve until told to stop; report the processor time."""

    async def main() -> None:
        if batches:
            aio.install(gro=True)
        configuration = QuicConfiguration(is_client=False, alpn_protocols=[PROTOCOL], max_datagram_size=1400)
        configuration.load_cert_chain(Path(folder) / "certificate.pem", Path(folder) / "key.pem")
        server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Sender)
        transport: Any = server._transport  # noqa: SLF001 - aioquic does not tell
        pipe.send(transport.get_extra_info("sockname")[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)
        server.close()

    start = time.process_time()
    asyncio.run(main())
    pipe.send(time.process_time() - start)


async def fetch(port: int, folder: Path, size: int, *, batches: bool) -> int:
    """Fetch `size` bytes; return how many came."""
    if batches:
        aio.install(gro=True)
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[PROTOCOL],
        server_name="localhost",
        max_datagram_size=1400,
        max_data=64 << 20,
        max_stream_data=64 << 20,
    )
    configuration.load_verify_locations(str(folder / "certificate.pem"))
    async with connect("127.0.0.1", port, configuration=configuration, create_protocol=Reader) as client:
        assert isinstance(client, Reader)
        stream = client._quic.get_next_available_stream_id()  # noqa: SLF001 - as aioquic's examples do
        client._quic.send_stream_data(stream, b"%d" % size, end_stream=True)  # noqa: SLF001
        client.transmit()
        await asyncio.wait_for(client.done.wait(), 120)
        return client.received


def transfer(size: int, *, batches: bool) -> float:
    """Return the processor time that both sides take together, in seconds."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificate(folder)
        ours, theirs = context.Pipe()
        server = context.Process(target=run_server, args=(theirs, name, batches))
        server.start()
        port = ours.recv()
        start = time.process_time()
        received = asyncio.run(fetch(port, folder, size, batches=batches))
        took = time.process_time() - start
        ours.send("stop")
        took += float(ours.recv())
        server.join()
    assert received == size
    return took


if __name__ == "__main__":
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    usual = transfer(megabytes << 20, batches=False)
    batches = transfer(megabytes << 20, batches=True)
    print(
        f"quic_transfer: {megabytes} MiB, {batches:.2f} s of processor time in batches, {usual:.2f} s on asyncio's "
        f"transport: {batches / usual:.2f} of it"
    )
