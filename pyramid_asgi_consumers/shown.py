"""How log lines and errors show what others sent: on one line, bounded and escaped."""

#: Seconds from one line to the next of what may go on and on.
LOG_INTERVAL = 60.0

MOST_CHARACTERS = 200
MOST_OF_AN_ERROR = 500


class Shown:
    """``value`` as printable ASCII, made when the line is written.

    Text is cut after ``most`` characters (200) and, unless ``quoted`` is false, in quotes. An
    exception shows its message (500 characters), or its type where it has none; all else its
    representation.
    """

    __slots__ = ("value", "most", "quoted")

    def __init__(self, value: object, most: int = MOST_CHARACTERS, quoted: bool = True) -> None:
        self.value = value
        self.most = most
        self.quoted = quoted

    def __str__(self) -> str:
        value = self.value
        if isinstance(value, str):
            kept = value[: self.most]
            return (ascii(kept) if self.quoted else _escaped(kept)) + _rest(value, self.most)
        if isinstance(value, BaseException):
            text, most = str(value) or type(value).__name__, MOST_OF_AN_ERROR
        else:
            text, most = repr(value), self.most
        return _escaped(text[:most]) + _rest(text, most)

    __repr__ = __str__


def _escaped(text: str) -> str:
    return "".join(x if x.isascii() and x.isprintable() else ascii(x)[1:-1] for x in text)


def _rest(text: str, most: int) -> str:
    return f"... ({len(text)} characters)" if len(text) > most else ""
