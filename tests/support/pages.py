"""The pages of the documentation, README among them, and the blocks of code in them."""

import re
import sys
import textwrap
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PROJECT = Path(__file__).parent.parent.parent

#: The pages by their names, as ``README``, ``channels`` and ``recipes/presence``.
PAGES = {"README": PROJECT / "README.rst"} | {
    path.relative_to(PROJECT / "docs").with_suffix("").as_posix(): path
    for path in sorted((PROJECT / "docs").rglob("*.rst"))
}

_BLOCK = re.compile(
    r"^\.\. code-block:: ([\w+]+)\n(?:   :caption: (\S+)\n)?\n((?:    .*\n|\n)+)", re.MULTILINE
)


class Block(NamedTuple):
    """A block of code, and the file as which its reader saves it, None where it is none."""

    code: str
    file: str | None


def text_of(page: str) -> str:
    """What a page says."""
    return PAGES[page].read_text()


@cache
def blocks(page: str, language: str = "python") -> list[Block]:
    """The blocks of a page that are in ``language``."""
    found = [
        Block(textwrap.dedent(code).rstrip() + "\n", file or None)
        for in_language, file, code in _BLOCK.findall(text_of(page))
        if in_language == language
    ]
    if (page, language) == ("README", "python"):
        # PyPI knows no captions.
        found[0] = found[0]._replace(file="app.py")
    return found


def run_block(page: str, number: int = 0, **names: object) -> ModuleType:
    """Run a block of Python where these names are known; return it as a module."""
    # Who reads annotations looks for their module.
    sys.modules["example"] = module = ModuleType("example")
    vars(module).update(names)
    exec(compile(blocks(page)[number].code, f"{page}:{number}", "exec"), vars(module))
    return module


def javascript(page: str, function: str) -> str:
    """The block of a page that has this function of JavaScript."""
    (found,) = [
        block.code for block in blocks(page, "javascript") if f"function {function}(" in block.code
    ]
    return found
