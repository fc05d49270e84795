"""Which addresses a reference on the web may reach: public ones, unless private ones are allowed.

A name is resolved once, every address that it has is judged, and the connection goes to one of
those and to no other, so that a name can't mean something else a moment later.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import NamedTuple

from manifests.row_errors import ForbiddenReferenceError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Services that give a machine's own credentials to whoever asks from it; never references.
METADATA_ADDRESSES = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Google, Azure, OpenStack, Oracle and others
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "169.254.42.42",  # Scaleway
        "168.63.129.16",  # Azure
        "100.100.100.200",  # Alibaba
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS
        "fd20:ce::254",  # Google
        "fd00:42::42",  # Scaleway
    )
)
METADATA_NAMES = frozenset(
    {
        "metadata",
        "metadata.google.internal",
        "metadata.goog",
        "instance-data",
        "instance-data.ec2.internal",
    }
)
# IPv6 networks whose addresses stand for IPv4 addresses: the prefix, and the bits below those.
_EMBEDDING = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # mapped
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # translated
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4
)
_NOT_PUBLIC = (
    ipaddress.IPv6Network("::/96"),  # IPv4-compatible, and loopback
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 of a local network
    ipaddress.IPv6Network("fec0::/10"),  # site-local
)


class Resolved(NamedTuple):
    """An address of a host that may be reached."""

    family: int
    address: str


def resolve(host: str, port: int) -> list[Resolved]:
    """All addresses of a host, which may be an address itself in any spelling; OSError: none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(Resolved(int(each[0]), str(each[4][0])) for each in found))


def reachable(host: str, port: int, allow_private: bool, what: str) -> list[Resolved]:
    """The addresses of a host.

    Args:
        host: Name or address, as a URL has it.
        port: The URL's.
        allow_private: Whether addresses that are not public will do, metadata services excepted.
        what: How the message begins: the reference, and how it came to the host.

    Raises:
        ForbiddenReferenceError: One of the addresses must not be reached.
        OSError: The host has no address.
    """
    if host.lower().rstrip(".") in METADATA_NAMES:
        raise _metadata(host, what)
    found = resolve(host, port)
    for _, text in found:
        address = _plain(ipaddress.ip_address(text.partition("%")[0]))
        shown = host if host == text else f"{host} ({text})"
        if address in METADATA_ADDRESSES:
            raise _metadata(shown, what)
        kind = kind_of(address)
        if kind != "public" and not allow_private:
            raise ForbiddenReferenceError(
                f"{what} {shown}, a {kind} address, which references may not reach; give a "
                "public one, or allow it with --allow-private-hosts, then `retry`"
            )
    return found


def _metadata(host: str, what: str) -> ForbiddenReferenceError:
    return ForbiddenReferenceError(
        f"{what} {host}, a metadata service, which no reference may reach; give another address"
    )


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, else the address itself."""
    for network, shift in _EMBEDDING:
        if address in network:
            return ipaddress.IPv4Address(int(address) >> shift & 0xFFFF_FFFF)
    return address


def kind_of(address: Address) -> str:
    """public, loopback, link-local, private or reserved."""
    address = _plain(address)
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_unspecified or address.is_multicast or address.is_reserved:
        return "reserved"
    if not address.is_global or any(address in network for network in _NOT_PUBLIC):
        return "private"
    return "public"
