"""Sockets for `pktalloc.aio`, made from the arguments that `loop.create_datagram_endpoint()` takes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
from pathlib import Path
from typing import Any

Address = Any
"""What `socket.sendto()` takes: a tuple for IPv4 and IPv6, a name for Unix sockets."""


def check_socket(sock: socket.socket, modifiers: dict[str, Any]) -> socket.socket:
    """Take a socket that the caller made, which rules out everything that would change it."""
    if sock.type != socket.SOCK_DGRAM:
        raise ValueError(f"A datagram socket was expected, got {sock!r}")
    given = ", ".join(f"{name}={value}" for name, value in modifiers.items() if value)
    if given:
        raise ValueError(f"socket modifier keyword arguments can not be used when sock is specified. ({given})")
    sock.setblocking(False)
    return sock


async def make_socket(  # noqa: PLR0913 - asyncio's arguments
    local_addr: Address,
    remote_addr: Address,
    *,
    family: int,
    proto: int,
    flags: int,
    reuse_port: bool | None,
    allow_broadcast: bool | None,
) -> tuple[socket.socket, Address]:
    """Make a socket, bound and connected as asked; return it and the address that it is for, if any.

    With `allow_broadcast` it is not connected: that would keep answers from other addresses away.
    """
    loop = asyncio.get_running_loop()
    errors: list[OSError] = []
    for this_family, this_proto, local, remote in await _candidates(local_addr, remote_addr, family, proto, flags):
        try:
            sock = socket.socket(this_family, socket.SOCK_DGRAM, this_proto)
        except OSError as error:
            errors.append(error)
            continue
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            try:
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if allow_broadcast:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
                sock.setblocking(False)
                if local is not None:
                    sock.bind(local)
                if remote is not None and not allow_broadcast:
                    await loop.sock_connect(sock, remote)
            except OSError as error:
                errors.append(error)
                continue
            stack.pop_all()
            return sock, remote
    raise errors[0]


async def _candidates(
    local_addr: Address, remote_addr: Address, family: int, proto: int, flags: int
) -> list[tuple[int, int, Address, Address]]:
    """List family, protocol, local and remote address of the sockets to try, in order."""
    if not (local_addr or remote_addr):
        if family == 0:
            raise ValueError("unexpected address family")
        return [(family, proto, None, None)]
    if family == socket.AF_UNIX:
        if any(address is not None and not isinstance(address, str) for address in (local_addr, remote_addr)):
            raise TypeError("string is expected")
        if local_addr and not local_addr.startswith("\0"):
            _remove_stale(Path(local_addr))
        return [(family, proto, local_addr or None, remote_addr or None)]
    found: dict[tuple[int, int], list[Address]] = {}
    for side, address in enumerate((local_addr, remote_addr)):
        if address is not None:
            for key, resolved in await _resolved(address, family, proto, flags):
                sides = found.setdefault(key, [None, None])
                sides[side] = resolved
    wanted = [
        (this_family, this_proto, local, remote)
        for (this_family, this_proto), (local, remote) in found.items()
        if not (local_addr and local is None) and not (remote_addr and remote is None)
    ]
    if not wanted:
        raise ValueError("can not get address information")
    return wanted


async def _resolved(address: Address, family: int, proto: int, flags: int) -> list[tuple[tuple[int, int], Address]]:
    """Look an address up: a list of family and protocol, and what it is for these."""
    if not (isinstance(address, tuple) and len(address) == 2):
        raise TypeError("2-tuple is expected")
    host, port = address
    wanted = {"family": family, "type": socket.SOCK_DGRAM, "proto": proto}
    try:
        # An address in numbers needs no name server, and no thread that asks one.
        infos = socket.getaddrinfo(host, port, flags=flags | socket.AI_NUMERICHOST, **wanted)
    except socket.gaierror:
        infos = await asyncio.get_running_loop().getaddrinfo(host, port, flags=flags, **wanted)
    if not infos:
        raise OSError("getaddrinfo() returned empty list")
    return [((this_family, this_proto), resolved) for this_family, _, this_proto, _, resolved in infos]


def _remove_stale(path: Path) -> None:
    """Remove what an earlier process has left at a Unix socket's path."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(path.stat().st_mode):
            path.unlink()
