"""Finds the consumer that was declared for a path."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyramid.urldispatch import _compile_route

# How specific a segment of a pattern is: a smaller number is tried first.
LITERAL, PATTERN, PLACEHOLDER, REST = range(4)


@dataclass(frozen=True)
class Consumer:
    """One declared consumer.

    ``path`` is its pattern, in Pyramid's grammar; ``protocol`` is ``"websocket"`` or ``"http"``;
    ``app`` is an ASGI 3 application; ``declared`` is its name, for logs; ``origins`` are those
    that may open it besides its own; ``max_connections`` is how many may be open at once.
    """

    path: str
    protocol: str
    app: Callable[..., Any]
    declared: str
    origins: tuple[str, ...] = ()
    max_connections: int | None = None
    match: Callable[[str], dict[str, Any] | None] = field(init=False, compare=False, repr=False)
    rank: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "match", _compile_route(self.path)[0])
        object.__setattr__(self, "rank", tuple(_rank(part) for part in _segments(self.path)))

    def __str__(self) -> str:
        return f"{self.protocol} consumer {self.path} ({self.declared})"


class ConsumerMapper:
    """Path to consumer: of two patterns that match, the more specific one wins.

    Patterns are compared segment by segment from the left: literal, placeholder with a pattern or
    with text beside it, placeholder, ``*rest``. Between equals it is the one declared first.
    """

    def __init__(self) -> None:
        self._consumers: dict[tuple[str, str], Consumer] = {}
        # By protocol: those of literal patterns by their path, the others by first segment where
        # that is literal (None where it is not), the most specific first.
        self._literal: dict[str, dict[str, Consumer]] = {}
        self._others: dict[str, dict[str | None, list[Consumer]]] = {}
        self._sorted = True

    def __iter__(self):
        return iter(self._consumers.values())

    def add(self, consumer: Consumer) -> None:
        """Add ``consumer``, in place of one with the same protocol and path."""
        self._consumers[consumer.protocol, consumer.path] = consumer
        self._sorted = False

    def _sort(self) -> None:
        self._literal, self._others = {}, {}
        for each in self:
            if not any(each.rank):
                self._literal.setdefault(each.protocol, {})[each.path] = each
                continue
            first = None if each.rank[0] else _segments(each.path)[0]
            self._others.setdefault(each.protocol, {}).setdefault(first, []).append(each)
        for others in self._others.values():
            for found in others.values():
                found.sort(key=lambda one: one.rank)
        self._sorted = True

    def has(self, protocol: str) -> bool:
        """Whether any consumer was declared for ``protocol``."""
        if not self._sorted:
            self._sort()
        return protocol in self._literal or protocol in self._others

    def __call__(self, protocol: str, path: str) -> tuple[Consumer, dict[str, Any]] | None:
        """Return the consumer for ``path`` (text, within the root path) and what it matched."""
        if not self.has(protocol):
            return None
        # Python's $ also matches in front of a final newline.
        if path.endswith("\n"):
            return None
        consumer = self._literal.get(protocol, {}).get(path)
        if consumer is not None:
            return consumer, {}
        others = self._others.get(protocol)
        if others is not None:
            first = path.split("/", 2)[1] if path.startswith("/") else ""
            for consumer in (*others.get(first, ()), *others.get(None, ())):
                params = consumer.match(path)
                if params is not None:
                    return consumer, params
        return None


def _segments(path: str) -> list[str]:
    # A slash within braces belongs to a placeholder's pattern.
    return re.split(r"/(?![^{]*\})", path)[1:]


def _rank(segment: str) -> int:
    if re.search(r"\*\w*$", segment):
        return REST
    # Pyramid still reads its old form, :name.
    if re.match(r":\w", segment):
        return PLACEHOLDER
    if "{" not in segment:
        return LITERAL
    return PLACEHOLDER if re.fullmatch(r"\{\w+\}", segment) else PATTERN
