"""Addresses and ports that the server listens on."""

import ipaddress
import os
import socket
from functools import lru_cache

KEY = "KINDLING_API_KEY"  # environment variable with the key that clients must send


@lru_cache(maxsize=256)  # the server asks for each request
def is_local(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(host: str, port: int) -> int:
    """Return the port if it is free; if it is 0, any free port.

    Raises:
        OSError: If the port or the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            if os.name == "posix":  # as asyncio does; on Windows, a port in use would seem free
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            found: int = listener.getsockname()[1]
    except OSError as error:
        raise OSError(f"can't listen on {host}, port {port}: {error}; choose another with --port") from error
    return found
