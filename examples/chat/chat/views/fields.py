"""What forms and URLs say, whatever somebody puts into them."""

import re

#: Of a row: as many digits as every database takes.
ID = re.compile(r"[0-9]{1,18}")


def text_of(fields, name):
    """The text of a field; none where there is none, or a file."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def id_of(fields, name):
    """The id of a row that a field names, or None."""
    text = text_of(fields, name)
    return int(text) if ID.fullmatch(text) else None
