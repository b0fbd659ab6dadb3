#!/usr/bin/env python3
"""Record the capture that ships with the package: real programs talking across a link of their own.

Two network namespaces, `pktalloc-server` and `pktalloc-client`, are joined by a virtual Ethernet of 1500 bytes MTU with
every offload off, so that the packets look like a wire's and not like the 64 KiB segments of a loopback device. A token
bucket gives the link a rate, so that queues build. Nothing leaves the two namespaces; both are removed at the end.
On this link run at once, all started by this script:

- RTP: ffmpeg sends H.264 video and Opus audio in real time, another ffmpeg receives both (RTP and RTCP);
- QUIC: quic_segments.py (aioquic) serves the segments of a stream, another fetches one every two seconds;
- HTTP: curl downloads a file from Python's http.server at a limited rate.

tcpdump records at the client's end and keeps the headers alone (see SNAPLEN); editcap rewrites the file as pcapng
without a word on the machine that recorded it.

It needs root (for the namespaces), Linux, and these programs; on Debian and for example in a virtual environment:

    apt-get install iproute2 ethtool tcpdump wireshark-common ffmpeg curl openssl
    pip install --group capture
    python scripts/record_capture.py

Then `pytest tests/test_capture.py` checks what was recorded.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

DEFAULT_OUTPUT = Path(__file__).parents[1] / "python" / "pktalloc" / "data" / "demo.pcapng"

SERVER, CLIENT = "pktalloc-server", "pktalloc-client"
# Addresses that RFC 5737 sets aside for documentation: they belong to nobody.
SERVER_ADDRESS, CLIENT_ADDRESS = "192.0.2.1", "192.0.2.2"
LINK_RATE, LINK_BURST, LINK_LATENCY = "6mbit", "8kb", "60ms"

# Ethernet 14 + IPv4 20 + what every transport here has: TCP's fixed header is 20 bytes; UDP's is 8, and behind it stand
# RTP's 12 or the first 12 of a QUIC header. No payload gets into the file; each packet's length on the wire does.
SNAPLEN = 54

VIDEO_PORT, AUDIO_PORT, QUIC_PORT, HTTP_PORT = 5004, 5006, 4433, 8080
HTTP_BYTES = 1_600_000


class RecordingError(Exception):
    """Something that the recording needs is missing, or a program failed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Record, and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="the file to write (%(default)s)")
    parser.add_argument("--seconds", type=int, default=20, help="how long the programs talk (%(default)s)")
    arguments = parser.parse_args(argv)
    try:
        record(arguments.output, arguments.seconds)
    except RecordingError as error:
        print(f"record_capture: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes")
    return 0


def record(output: Path, seconds: int) -> None:
    """Record `seconds` of traffic and write `output`."""
    if os.geteuid() != 0:
        raise RecordingError("it needs root, to make its network namespaces")
    for program in ("ip", "tc", "ethtool", "tcpdump", "editcap", "ffmpeg", "curl", "openssl"):
        if shutil.which(program) is None:
            raise RecordingError(f"{program} is not installed; the docstring names the packages")
    with tempfile.TemporaryDirectory() as name, link():
        directory = Path(name)
        make_certificate(directory)
        (directory / "file.bin").write_bytes(bytes(HTTP_BYTES))
        recording = directory / "recording.pcap"
        tcpdump = ("tcpdump", "-q", "-Z", "root", "-i", "client", "-s", str(SNAPLEN), "-w", recording, "ip")
        # On SIGTERM tcpdump writes what it still holds.
        with program_in(CLIENT, *tcpdump, ending=signal.SIGTERM), contextlib.ExitStack() as running:
            converse(running, directory, seconds)
        run("editcap", "-F", "pcapng", recording, output)


def converse(running: contextlib.ExitStack, directory: Path, seconds: int) -> None:
    """Start the programs that talk; return when each of the three conversations has ended."""
    quic = (sys.executable, Path(__file__).resolve().with_name("quic_segments.py"))
    quic_at = ("--address", SERVER_ADDRESS, "--port", str(QUIC_PORT), "--certificate", directory / "certificate.pem")
    session = directory / "session.sdp"
    running.enter_context(program_in(SERVER, *quic, "serve", *quic_at, "--key", directory / "key.pem"))
    running.enter_context(
        program_in(SERVER, sys.executable, "-m", "http.server", str(HTTP_PORT), "--directory", directory)
    )
    # The sender first: what it writes to `session` tells the receiver of what it sends.
    media = running.enter_context(program_in(SERVER, *media_sender(session, seconds)))
    wait_for(session)
    running.enter_context(program_in(CLIENT, *media_receiver(session)))
    segments = running.enter_context(program_in(CLIENT, *quic, "fetch", *quic_at, "--seconds", str(seconds)))
    download = running.enter_context(
        program_in(
            *(CLIENT, "curl", "--silent", "--fail", "--retry", "5", "--retry-connrefused", "--output", "/dev/null"),
            *("--limit-rate", str(HTTP_BYTES // seconds), f"http://{SERVER_ADDRESS}:{HTTP_PORT}/file.bin"),
        )
    )
    for name, conversation in (("RTP", media), ("QUIC", segments), ("HTTP", download)):
        status = conversation.wait(timeout=3 * seconds)
        if status != 0:
            raise RecordingError(f"the {name} conversation ended with status {status}")


def media_sender(session: Path, seconds: int) -> list[str | Path]:
    """An ffmpeg that sends a moving test picture and pink noise as two RTP streams."""
    video = ["-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25,noise=alls=8:allf=t"]
    audio = ["-f", "lavfi", "-i", "anoisesrc=amplitude=0.1:colour=pink:sample_rate=48000"]
    x264 = ["-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-g", "50"]
    x264 += ["-b:v", "900k", "-maxrate", "900k", "-bufsize", "450k"]
    opus = ["-c:a", "libopus", "-b:a", "48k", "-vbr", "on"]
    return [
        *("ffmpeg", "-loglevel", "error", "-nostdin", "-re", *video, "-re", *audio),
        *("-map", "0:v", "-t", str(seconds), *x264, "-f", "rtp", f"rtp://{CLIENT_ADDRESS}:{VIDEO_PORT}"),
        *("-map", "1:a", "-t", str(seconds), *opus, "-f", "rtp", f"rtp://{CLIENT_ADDRESS}:{AUDIO_PORT}"),
        *("-sdp_file", session),
    ]


def media_receiver(session: Path) -> list[str | Path]:
    """An ffmpeg that receives and decodes what `session` describes."""
    return [
        *("ffmpeg", "-loglevel", "fatal", "-nostdin", "-protocol_whitelist", "file,udp,rtp"),
        *("-i", session, "-f", "null", "-"),
    ]


def make_certificate(directory: Path) -> None:
    """Write a key and a certificate for SERVER_ADDRESS that signs itself."""
    key, certificate = directory / "key.pem", directory / "certificate.pem"
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "1"),
        *("-subj", f"/CN={SERVER_ADDRESS}", "-addext", f"subjectAltName=IP:{SERVER_ADDRESS}"),
        *("-keyout", key, "-out", certificate),
    )


@contextlib.contextmanager
def link() -> Iterator[None]:
    """Both namespaces and the Ethernet between them, removed at the end."""
    run("ip", "netns", "add", SERVER)
    try:
        run("ip", "netns", "add", CLIENT)
        server, client = ("name", "server", "netns", SERVER), ("name", "client", "netns", CLIENT)
        run("ip", "link", "add", *server, "mtu", "1500", "type", "veth", "peer", *client, "mtu", "1500")
        for namespace, device, address in ((SERVER, "server", SERVER_ADDRESS), (CLIENT, "client", CLIENT_ADDRESS)):
            inside = ("ip", "netns", "exec", namespace)
            # Neither router solicitations nor multicast listener reports: IPv4 alone.
            run(*inside, "sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1")
            run(*inside, "ethtool", "-K", device, "tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off")
            run(*inside, "ip", "address", "add", f"{address}/24", "dev", device)
            run(*inside, "ip", "link", "set", device, "up")
            run(
                *inside,
                *("tc", "qdisc", "add", "dev", device, "root", "tbf"),
                *("rate", LINK_RATE, "burst", LINK_BURST, "latency", LINK_LATENCY),
            )
        yield
    finally:
        for namespace in (SERVER, CLIENT):
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)


@contextlib.contextmanager
def program_in(
    namespace: str, *command: str | Path, ending: signal.Signals = signal.SIGKILL
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs inside `namespace` until the block ends; `ending` is how it is told."""
    process = subprocess.Popen(["ip", "netns", "exec", namespace, *command], stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.send_signal(ending)
        process.wait(timeout=10)


def wait_for(path: Path) -> None:
    """Wait until a program has written `path`."""
    deadline = time.monotonic() + 10
    while not (path.exists() and path.stat().st_size):
        if time.monotonic() > deadline:
            raise RecordingError(f"nobody wrote {path}")
        time.sleep(0.05)


def run(*command: str | Path) -> None:
    """Run a command that must succeed."""
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode != 0:
        raise RecordingError(f"{' '.join(map(str, command))}: {finished.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main())
