"""Where a delivery may go: a customer's URL must not reach into our own network (server-side request forgery).

Names are resolved here, every address is checked, and the connection goes to the address that was checked, so that a
name which changes its mind between look and use gains nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVE_SECONDS = 5

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


class Blocked(OSError):
    """An address that deliveries may not go to. An OSError, so that aiohttp takes it for a failed connection."""


def may_reach(address: Address, allowed: Iterable[Network]) -> bool:
    """Whether `address` is public, or within `allowed`. An IPv4 address inside an IPv6 one counts as what it stands
    for."""
    inner = _embedded(address)
    if any(inner in network or address in network for network in allowed):
        return True
    return inner.is_global and not (inner.is_multicast or inner.is_reserved or inner.is_unspecified)


def _embedded(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _NAT64) or int(address) >> 32 == 0:  # ::a.b.c.d, long out of use
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def literal(host: str) -> Address | None:
    """The address that `host` is written as, in any way that a resolver understands (127.1, 0x7f000001, 2130706433);
    None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


async def resolve(host: str, port: int, allowed: Sequence[Network]) -> list[Address]:
    """The addresses of `host`. Raises `Blocked` if any of them may not be reached, OSError if there are none."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except TimeoutError:
        raise OSError(f"{host} was not resolved within {RESOLVE_SECONDS} s") from None
    addresses = list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))
    for address in addresses:
        if not may_reach(address, allowed):
            raise Blocked(f"{host} resolves to {address}, which is no public address")
    if not addresses:
        raise OSError(f"{host} has no address")
    return addresses


class GuardedResolver(AbstractResolver):
    """aiohttp's way to addresses. It is asked for names only: addresses written into a URL are checked with the
    config."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses to connect to, all of them checked."""
        return [
            ResolveResult(
                hostname=host,
                host=str(address),
                port=port,
                family=socket.AF_INET if address.version == 4 else socket.AF_INET6,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await resolve(host, port, self._allowed)
            if family in (socket.AF_UNSPEC, socket.AF_INET if address.version == 4 else socket.AF_INET6)
        ]

    async def close(self) -> None:
        """Nothing is held."""
