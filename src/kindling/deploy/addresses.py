"""Addresses that the server listens at."""

import ipaddress
import socket


def is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def free_port(host: str, port: int) -> int:
    """Makes sure that a port can be listened at; of 0 it makes a free one.

    Raises:
        OSError: If that can't be done.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            listener.bind(address)
            found: int = listener.getsockname()[1]
    except OSError as error:
        raise OSError(f"can't listen at {host}, port {port}: {error}; choose another with --port") from error
    return found
