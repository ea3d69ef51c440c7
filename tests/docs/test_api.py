"""``docs/``: every public name has its docstring, and its place in the API."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
from zope.interface.interface import InterfaceClass

from pyramid_asgi_consumers import interfaces

PROJECT = Path(__file__).parent.parent.parent

MODULES = ("", ".channels", ".exceptions", ".testing")
NAMES = {
    (module.__name__, name): getattr(module, name)
    for module in (importlib.import_module(f"pyramid_asgi_consumers{part}") for part in MODULES)
    for name in module.__all__
    # Pyramid's own.
    if not getattr(module, name).__module__.startswith("pyramid.")
}
NAMES |= {
    (interfaces.__name__, name): value
    for name, value in vars(interfaces).items()
    if isinstance(value, InterfaceClass) and value.__module__ == interfaces.__name__
}


def shown_names():
    """What the page of the API shows."""
    page = (PROJECT / "docs" / "api.rst").read_text()
    return {name.rpartition(".")[2] for name in re.findall(r"^\.\. auto\w+:: ([\w.]+)", page, re.M)}


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_public_name_has_a_docstring(module, name):
    value = NAMES[module, name]
    assert value.__doc__
    if isinstance(value, type):
        public = {n: v for n, v in vars(value).items() if n[0] != "_" and callable(v)}
        assert [n for n, v in public.items() if not inspect.getdoc(getattr(value, n))] == []


def test_the_page_of_the_api_shows_every_public_name_and_directive():
    pages = (PROJECT / "pyramid_asgi_consumers" / "config").glob("*.py")
    directives = {
        name for path in pages for name in re.findall(r'add_directive\("(\w+)"', path.read_text())
    }
    assert {name for _, name in NAMES} | directives <= shown_names()
