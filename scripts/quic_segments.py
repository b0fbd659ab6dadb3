#!/usr/bin/env python3
"""A segmented download over QUIC: a server that answers each stream with the bytes it asks for, and its client.

record_capture.py runs one of each; it needs `aioquic` (`pip install --group capture`).
"""

import argparse
import asyncio
import random
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

PROTOCOL = "segments"
SEGMENT_SECONDS = 2
SEGMENT_BYTES = range(120_000, 260_000)


def main() -> None:
    """Run one end, as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("end", choices=["serve", "fetch"])
    parser.add_argument("--address", required=True, help="the server's")
    parser.add_argument("--port", type=int, required=True, help="the server's")
    parser.add_argument("--certificate", required=True, help="the server's, in PEM; the client trusts it alone")
    parser.add_argument("--key", help="of the certificate (serve)")
    parser.add_argument("--seconds", type=int, default=20, help="how long to fetch (%(default)s)")
    arguments = parser.parse_args()
    if arguments.end == "serve":
        asyncio.run(serve_segments(arguments.address, arguments.port, arguments.certificate, arguments.key))
    else:
        asyncio.run(fetch_segments(arguments.address, arguments.port, arguments.certificate, arguments.seconds))


async def serve_segments(address: str, port: int, certificate: str, key: str) -> None:
    """Answer every stream with as many bytes as it asks for, until the process is ended."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=[PROTOCOL])
    configuration.load_cert_chain(certificate, key)
    answers: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(int(await reader.read())))
        writer.write_eof()

    def answer_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(answer(reader, writer))
        answers.add(task)
        task.add_done_callback(answers.discard)

    await serve(address, port, configuration=configuration, stream_handler=answer_stream)
    await asyncio.Event().wait()


async def fetch_segments(address: str, port: int, certificate: str, seconds: int) -> None:
    """Fetch one segment every SEGMENT_SECONDS over one connection."""
    configuration = QuicConfiguration(alpn_protocols=[PROTOCOL], server_name=address)
    configuration.load_verify_locations(certificate)
    sizes = random.Random(1)
    start = time.monotonic()
    async with connect(address, port, configuration=configuration) as connection:
        for index in range(seconds // SEGMENT_SECONDS):
            await asyncio.sleep(start + index * SEGMENT_SECONDS - time.monotonic())
            size = sizes.choice(SEGMENT_BYTES)
            reader, writer = await connection.create_stream()
            writer.write(b"%d" % size)
            writer.write_eof()
            received = len(await reader.read())
            if received != size:
                sys.exit(f"quic_segments: segment {index}: asked for {size} bytes, received {received}")


if __name__ == "__main__":
    main()
