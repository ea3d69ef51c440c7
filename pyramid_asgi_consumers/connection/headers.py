"""The headers of a consumer's answer, with those of its handshake."""

from typing import Any

from pyramid_asgi_consumers.refusal import Headers


def merged(own: Any, pyramids: Headers) -> Headers:
    """The headers ``own`` of the consumer and those of Pyramid's response to its handshake."""
    # What the consumer says itself holds; cookies are all set.
    own = list(own or ())
    names = {name.lower() for name, _ in own} - {b"set-cookie"}
    return own + [header for header in pyramids if header[0] not in names]
