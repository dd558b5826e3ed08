"""Decides which requests may use the server: by key, host name and origin."""

import hmac
import re

from starlette.exceptions import HTTPException

from kindling.deploy.addresses import is_local


def authorize(headers: dict[bytes, bytes], key: str) -> None:
    """Check that a request has the key, and that no web page of another origin sends it.

    Raises:
        HTTPException: If it may not use the server.
    """
    origin, host = (headers.get(name, b"").decode("latin-1") for name in (b"origin", b"host"))
    if origin and origin.partition("://")[2] != host:
        raise HTTPException(403, f"requests from web pages of other origins are refused: {origin[:100]}")
    if not key and not is_local(re.sub(r":\d*$", "", host).strip("[]")):
        # A foreign name that resolves to this machine (DNS rebinding).
        raise HTTPException(403, "without a key, the server is available only as localhost and 127.0.0.1")
    if not key:
        return
    scheme, _, sent = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(sent.strip(), key.encode()):
        raise HTTPException(401, "send the key in a header: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
