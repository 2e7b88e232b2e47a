"""A `host:port` to listen on or to connect to, as it stands in configuration and in membership."""

import ipaddress
from typing import NamedTuple


class Address(NamedTuple):
    """A host name or IP address and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True when traffic to this address cannot leave the machine.

        A name other than localhost counts as remote: what it resolves to may change.
        """
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def is_unspecified(self) -> bool:
        """True for 0.0.0.0 and ::, which one listens on and cannot dial."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False


def parse_address(text: str) -> Address:
    """`host:port` or `[ipv6]:port`; anything else is a ValueError whose text says what is wrong."""
    host, colon, port_text = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"expected host:port, got {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host and "/" not in host:
        raise ValueError(f"an IPv6 address is written in brackets, [{host}]:{port_text}")
    if any(character.isspace() or character in "/@[]" for character in host):
        raise ValueError(f"{host!r} is not a host name or an IP address")
    if not (port_text.isascii() and port_text.isdigit()) or not 1 <= int(port_text) <= 65535:
        raise ValueError(f"the port must be a number from 1 to 65535, got {port_text!r}")
    return Address(host, int(port_text))
