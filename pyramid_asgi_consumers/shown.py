"""How a log line and an error show what others sent: bounded and escaped."""

MOST_CHARACTERS = 200
MOST_OF_AN_ERROR = 500


class Shown:
    """``value`` as one line of text, made when the line is written.

    Text is quoted, with its control characters escaped, and cut after 200 characters. An exception
    shows its type, and 500 characters of its message; all else its representation.
    """

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, BaseException):
            name, message = type(value).__name__, str(value)
            return f"{name}: {_escaped(message, MOST_OF_AN_ERROR)}" if message else name
        if not isinstance(value, str):
            return _escaped(repr(value), MOST_CHARACTERS)
        return repr(value[:MOST_CHARACTERS]) + _rest(value, MOST_CHARACTERS)

    __repr__ = __str__


def _escaped(text: str, most: int) -> str:
    kept = "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text[:most])
    return kept + _rest(text, most)


def _rest(text: str, most: int) -> str:
    return f"... ({len(text)} characters)" if len(text) > most else ""
