"""Finds the consumer that was declared for a path."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pyramid.urldispatch import Route, old_route_re, route_re, star_at_end, update_pattern

# How specific a segment of a pattern is: a smaller number wins. A pattern that ends is less
# specific than one that goes on.
LITERAL, PATTERN, PLACEHOLDER, REST, END = range(5)


@dataclass(frozen=True, eq=False)
class Consumer:
    """One declared consumer.

    ``path`` is its pattern, in Pyramid's grammar; ``protocol`` is ``"websocket"`` or ``"http"``;
    ``app`` is an ASGI 3 application; ``declared`` is its name, for logs; ``origins`` are those
    that may open it besides its own; ``max_connections`` is how many may be open at once;
    ``route_name`` is the Pyramid route of its handshakes, None for a plain consumer.

    ``match`` is Pyramid's own: it takes a path and returns what the placeholders stand for, or
    None. ``segments`` are the parts of the pattern between slashes: a literal one as its text,
    others as PATTERN, PLACEHOLDER or REST. ``rank`` orders consumers, the most specific first.

    Raises ValueError or re.error for a pattern that Pyramid refuses.
    """

    path: str
    protocol: str
    app: Callable[..., Any]
    declared: str
    origins: tuple[str, ...] = ()
    max_connections: int | None = None
    route_name: str | None = None
    match: Callable[[str], dict[str, Any] | None] = field(init=False, repr=False)
    segments: tuple[str | int, ...] = field(init=False, repr=False)
    rank: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        segments = _segments(self.path)
        rank = (*(LITERAL if isinstance(each, str) else each for each in segments), END)
        object.__setattr__(self, "match", Route(self.path, self.path).match)
        object.__setattr__(self, "segments", segments)
        object.__setattr__(self, "rank", rank)

    def __str__(self) -> str:
        return f"{self.protocol} consumer {self.path} ({self.declared})"


class ConsumerMapper:
    """Path to consumer: of two patterns that match, the more specific one wins.

    Patterns are compared segment by segment from the left: literal, placeholder with a pattern or
    with text beside it, placeholder, ``*rest``. A placeholder whose pattern takes slashes
    (``{path:.*}``) is one with a pattern, whatever it takes; ``/{path:.*}/edit`` wins over
    ``/{path:.*}``. Between equals it is the one declared first.

    The patterns are kept in a tree by segment, so what a look-up costs depends on the path, and
    not on how many patterns differ from it in a literal segment.
    """

    def __init__(self) -> None:
        self._consumers: dict[tuple[str, str], Consumer] = {}
        self._roots: dict[str, _Node] = {}
        self._declared = count()

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._consumers.values())

    def add(self, consumer: Consumer) -> None:
        """Add ``consumer``, in place of one with the same protocol and path.

        May be called at any time: the next look-up finds it.
        """
        key = consumer.protocol, consumer.path
        self._consumers.pop(key, None)
        self._consumers[key] = consumer
        node = self._roots.setdefault(consumer.protocol, _Node())
        for segment in consumer.segments:
            node = node.children.setdefault(segment, _Node())
        node.ends[consumer.path] = (consumer.rank, next(self._declared), consumer)

    def has_consumers(self, protocol: str) -> bool:
        """Whether any consumer was declared for ``protocol``."""
        return protocol in self._roots

    def __call__(self, protocol: str, path: str) -> tuple[Consumer, dict[str, Any]] | None:
        """Return the consumer for ``path`` (text, within the root path) and what it matched."""
        root = self._roots.get(protocol)
        # Python's $ also matches in front of a final newline.
        if root is None or path.endswith("\n"):
            return None
        # As Pyramid has it: the root path itself, without a slash, is the root page.
        path = path or "/"
        for _, _, consumer in sorted(root.reached(path.split("/")[1:])):
            params = consumer.match(path)
            if params is not None:
                return consumer, params
        return None


class _Node:
    """What the patterns with the same segments up to here have next."""

    __slots__ = ("children", "ends")

    def __init__(self) -> None:
        self.children: dict[str | int, _Node] = {}
        self.ends: dict[str, tuple[tuple[int, ...], int, Consumer]] = {}

    def reached(self, segments: list[str]) -> list[tuple[tuple[int, ...], int, Consumer]]:
        """Return what the patterns that may match ``segments`` end in, in no order."""
        found = []
        spread = set()
        length = len(segments)
        ahead = [(self, 0)]
        while ahead:
            node, at = ahead.pop()
            if at == length:
                found += node.ends.values()
                continue
            children = node.children
            if PATTERN in children or REST in children:
                # These take any number of segments. A node is reached from the left to the right,
                # so what it can reach later it has reached at first.
                if node not in spread:
                    spread.add(node)
                    if REST in children:
                        ahead.append((children[REST], length))
                    if PATTERN in children:
                        pattern = children[PATTERN]
                        ahead += [(pattern, end) for end in range(length, at, -1)]
            for key in (PLACEHOLDER, segments[at]):
                child = children.get(key)
                if child is not None:
                    ahead.append((child, at + 1))
        return found


def _segments(pattern: str) -> tuple[str | int, ...]:
    if old_route_re.search(pattern) and not route_re.search(pattern):
        pattern = old_route_re.sub(update_pattern, pattern)
    rest = ""
    if star_at_end.search(pattern):
        pattern, rest = pattern.rsplit("*", 1)
    # A slash within braces belongs to a placeholder's pattern.
    pattern = route_re.sub(lambda found: found[0].replace("/", ""), pattern)
    segments = [_segment(text) for text in pattern.removeprefix("/").split("/")]
    if rest:
        segments[-1] = REST
    return tuple(segments)


def _segment(text: str) -> str | int:
    if not route_re.search(text):
        return text
    return PLACEHOLDER if route_re.fullmatch(text) and ":" not in text else PATTERN
