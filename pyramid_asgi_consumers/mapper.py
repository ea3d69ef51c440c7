"""Finds the consumer that was declared for a path."""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any

from pyramid.urldispatch import Route, old_route_re, route_re, star_at_end, update_pattern

# How specific a segment of a pattern is: a smaller number wins. A pattern that ends is less
# specific than one that goes on, and that of a mounted application less than an equal one.
LITERAL, PATTERN, PLACEHOLDER, REST, END, MOUNTED = range(6)


@dataclass(frozen=True, eq=False, slots=True)
class Consumer:
    """One declared consumer.

    ``path`` is its pattern, in Pyramid's grammar; ``protocol`` is ``"websocket"`` or ``"http"``;
    ``app`` is an ASGI 3 application; ``declared`` is its name, for logs; ``origins`` are those
    that may open it besides its own; ``max_connections`` is how many may be open at once;
    ``max_message``, ``max_rate`` and ``max_connections_per_user`` are what one client or user may
    do (:class:`.Limits`); ``revalidate`` is every how many seconds the handshake of a guarded one
    is repeated; None is what the settings say;
    ``route_name`` is the Pyramid route of its handshakes, None for a plain consumer; ``mounted`` is
    whether it is a whole application, which leaves equal patterns to consumers; ``methods`` are
    those of the http requests that it answers, None for all.

    ``segments`` are the parts of the pattern between slashes: a literal one as its text, others as
    PATTERN, PLACEHOLDER or REST. It is ``literal`` where all are that, ``simple`` where all are
    literal or PLACEHOLDER. ``rank`` orders consumers, the most specific first.

    Raises ValueError or re.error for a pattern that Pyramid refuses.
    """

    path: str
    protocol: str
    app: Callable[..., Any]
    declared: str
    origins: tuple[str, ...] = ()
    max_connections: int | None = None
    max_message: int | None = None
    max_rate: tuple[int, int] | None = None
    max_connections_per_user: int | None = None
    revalidate: float | None = None
    route_name: str | None = None
    mounted: bool = False
    methods: Container[str] | None = None
    segments: tuple[str | int, ...] = field(init=False, repr=False)
    literal: bool = field(init=False, repr=False)
    simple: bool = field(init=False, repr=False)
    rank: tuple[int, ...] = field(init=False, repr=False)
    # For each segment the name if it is a PLACEHOLDER.
    _names: tuple[str | None, ...] = field(init=False, repr=False)
    _match: Callable[[str], dict[str, Any] | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        segments, names = _parsed(self.path)
        kinds = (LITERAL if isinstance(each, str) else each for each in segments)
        rank = (*kinds, MOUNTED if self.mounted else END)
        simple = PATTERN not in segments and REST not in segments
        object.__setattr__(self, "_match", Route(self.path, self.path).match)
        object.__setattr__(self, "_names", names)
        object.__setattr__(self, "literal", simple and PLACEHOLDER not in segments)
        object.__setattr__(self, "simple", simple)
        object.__setattr__(self, "segments", segments)
        object.__setattr__(self, "rank", rank)

    def __str__(self) -> str:
        return f"{self.protocol} consumer {self.path} ({self.declared})"

    def match(self, path: str, segments: list[str]) -> dict[str, Any] | None:
        """Return what the placeholders stand for in ``path``; None if the pattern does not match.

        ``segments`` are what stands behind the slashes of ``path``.
        """
        if self.literal:
            return {} if self.segments == tuple(segments) else None
        # Pyramid's own matcher reads the others.
        if not self.simple:
            return self._match(path)
        names = self._names
        if len(names) != len(segments):
            return None
        params = {}
        for name, own, segment in zip(names, self.segments, segments, strict=True):
            if name is None:
                if own != segment:
                    return None
            elif segment:
                params[name] = segment
            else:
                return None
        return params


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
        # The place of each: a guarded consumer is made anew of what was declared.
        self._added: dict[Consumer, int] = {}
        self._count = count()
        self._adding = Lock()

    def __iter__(self) -> Iterator[Consumer]:
        return iter(self._consumers.values())

    def add(self, consumer: Consumer, made_of: Consumer | None = None) -> None:
        """Add ``consumer``, in place of one with the same protocol and path.

        It comes last, unless the one that it replaces is ``made_of``: then it keeps that one's
        place. May be called at any time: the next look-up finds it.
        """
        key = consumer.protocol, consumer.path
        with self._adding:
            replaced = self._consumers.get(key)
            place = None if replaced is None else self._added.pop(replaced, None)
            if place is None or replaced is not made_of:
                self._consumers.pop(key, None)
                place = next(self._count)
            self._consumers[key] = consumer
            self._added[consumer] = place
            self._roots.setdefault(consumer.protocol, _Node()).add(consumer)

    def has_consumers(self, protocol: str) -> bool:
        """Whether any consumer was declared for ``protocol``."""
        return protocol in self._roots

    def __call__(
        self, protocol: str, path: str, method: str | None = None
    ) -> tuple[Consumer, dict[str, Any]] | None:
        """Return the consumer for ``path`` (text, within the root path) and what it matched.

        ``method`` is that of an http request.
        """
        root = self._roots.get(protocol)
        # As Pyramid has it: the root path itself, without a slash, is the root page.
        path = path or "/"
        # Python's $ also matches in front of a final newline.
        if root is None or path[0] != "/" or path[-1] == "\n":
            return None
        segments = path[1:].split("/")
        found = root.reached(segments)
        if len(found) > 1:
            # One that was replaced meanwhile is in no order any more.
            found.sort(key=lambda each: (each.rank, self._added.get(each, -1)))
        for consumer in found:
            if consumer.methods is not None and method not in consumer.methods:
                continue
            params = consumer.match(path, segments)
            if params is not None:
                return consumer, params
        return None


class _Node:
    """What the patterns with the same segments up to here have next.

    If only one simple consumer goes on from here, the node holds that consumer itself, in place of
    nodes for the segments to come, which the consumer compares: a look-up among thousands finds
    little of what it needs in the processor's caches. The others have a node for each segment,
    since it is dear to ask one that does not match.
    """

    __slots__ = ("children", "ends", "literal")

    def __init__(self) -> None:
        self.children: dict[str | int, _Node | Consumer] = {}
        self.ends: dict[str, Consumer] = {}
        #: Whether all children are of literal segments.
        self.literal = True

    def add(self, consumer: Consumer) -> None:
        """Add ``consumer`` below this node, which is a root."""
        node = self
        for at, segment in enumerate(consumer.segments):
            child = node.children.get(segment)
            if not isinstance(child, _Node):
                # Before it can be found.
                node.literal = node.literal and isinstance(segment, str)
                if consumer.simple and (child is None or child.path == consumer.path):
                    node.children[segment] = consumer
                    return
                # Complete the new node before it replaces the old one: others look meanwhile.
                split = _Node()
                if child is not None:
                    split._put(child, at + 1)
                node.children[segment] = child = split
            node = child
        node.ends[consumer.path] = consumer

    def _put(self, consumer: Consumer, at: int) -> None:
        if at == len(consumer.segments):
            self.ends[consumer.path] = consumer
        else:
            self.literal = isinstance(consumer.segments[at], str)
            self.children[consumer.segments[at]] = consumer

    def reached(self, segments: list[str]) -> list[Consumer]:
        """Return the consumers whose patterns may match ``segments``, in no order."""
        length = len(segments)
        node = self
        at = 0
        # Here but one way can lead on.
        while node.literal and at < length:
            only = node.children.get(segments[at])
            if only is None:
                return []
            if isinstance(only, Consumer):
                return [only]
            node = only
            at += 1
        found = []
        spread = set()
        ahead: list[tuple[_Node | Consumer, int]] = [(node, at)]
        while ahead:
            branch, at = ahead.pop()
            if isinstance(branch, Consumer):
                found.append(branch)
                continue
            if at == length:
                found += branch.ends.values()
                continue
            children = branch.children
            if PATTERN in children or REST in children:
                # These take any number of segments. A node is reached from the left to the right,
                # so what it can reach later it has reached at first.
                if branch not in spread:
                    spread.add(branch)
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


def _parsed(pattern: str) -> tuple[tuple[str | int, ...], tuple[str | None, ...]]:
    """Return the segments of ``pattern``, and for each the name if it is a PLACEHOLDER."""
    if old_route_re.search(pattern) and not route_re.search(pattern):
        pattern = old_route_re.sub(update_pattern, pattern)
    rest = ""
    if star_at_end.search(pattern):
        pattern, rest = pattern.rsplit("*", 1)
    # A slash within braces belongs to a placeholder's pattern.
    pattern = route_re.sub(lambda found: found[0].replace("/", ""), pattern)
    texts = pattern.removeprefix("/").split("/")
    segments = [_segment(text) for text in texts]
    if rest:
        segments[-1] = REST
    names = (
        text[1:-1] if segment == PLACEHOLDER else None
        for text, segment in zip(texts, segments, strict=True)
    )
    return tuple(segments), tuple(names)


def _segment(text: str) -> str | int:
    if not route_re.search(text):
        return text
    return PLACEHOLDER if route_re.fullmatch(text) and ":" not in text else PATTERN
