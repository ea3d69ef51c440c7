"""Where all channels of a relay stand, as the id of an event that a client sends back (pure).

An id says where each of the channels stands, in the order of their names, and has a digest of these
and a checksum of all, by which one that was cut is known. The names themselves are not in it:
servers refuse a header ``Last-Event-ID`` of some KB.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Mapping

from pyramid_asgi_consumers.channels.positions import make_id

#: An id has at most so many characters.
MOST_CHARACTERS = 4096

# A position is an epoch and a number, of up to 16 digits each.
_LONGEST = len("-.") + 2 * 16

_DIGEST = 8
_CHECKSUM = 8

#: How many channels a relay may have.
MOST_CHANNELS = (MOST_CHARACTERS - _DIGEST - _CHECKSUM) // _LONGEST

# Stands for a channel of which nobody knows where it stands.
_UNKNOWN = "~"

_ID = re.compile(r"((?:(?:[0-9]{1,16}-[0-9]{1,16}|~)\.)+)([-_0-9A-Za-z]{8})([0-9a-f]{8})")


def digest_of(names: Iterable[str]) -> str:
    """What stands for these ``names``, in their order."""
    digest = hashlib.sha256(json.dumps(list(names)).encode()).digest()
    return base64.urlsafe_b64encode(digest[:6]).decode()


class Ids:
    """The ids of a relay of the channels ``names``. Raises ValueError where these are too many."""

    def __init__(self, names: tuple[str, ...]) -> None:
        if len(names) > MOST_CHANNELS:
            raise ValueError(
                f"relay: at most {MOST_CHANNELS} channels fit into the id of an event, not"
                f" {len(names)}"
            )
        #: In one order, whichever they were given in: that of a set differs in each process.
        self.names = tuple(sorted(names))
        self.digest = digest_of(self.names)

    def make(self, positions: Mapping[str, str | None]) -> str:
        """The id that says that the channels stand at ``positions``, a mapping of event ids."""
        return self._checked("".join([f"{_short(positions.get(name))}." for name in self.names]))

    def _checked(self, stands: str) -> str:
        return f"{stands}{self.digest}{_checksum(stands)}"

    def read(self, id: str | None) -> dict[str, str | None] | None:
        """Where the channels stood at the event with this ``id``, None where nobody knows.

        That is so of all of them for the id of a relay of other channels. None for what is no such
        id at all: clients may send anything.
        """
        if id is None or len(id) > MOST_CHARACTERS:
            return None
        found = _ID.fullmatch(id)
        if found is None or found[3] != _checksum(found[1]):
            return None
        positions = found[1].split(".")[:-1]
        if found[2] != self.digest or len(positions) != len(self.names):
            return dict.fromkeys(self.names)
        return {name: _long(position) for name, position in zip(self.names, positions, strict=True)}


def _checksum(stands: str) -> str:
    return f"{zlib.crc32(stands.encode()):08x}"


def _short(event_id: str | None) -> str:
    if event_id is None:
        return _UNKNOWN
    epoch, number = event_id.split("-")
    return f"{epoch.lstrip('0') or '0'}-{number.lstrip('0') or '0'}"


def _long(position: str) -> str | None:
    if position == _UNKNOWN:
        return None
    epoch, number = position.split("-")
    return make_id((int(epoch), int(number)))
