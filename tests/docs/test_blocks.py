"""Every block of Python that README and the pages show runs, and no name in it is missing."""

import builtins
import dis
import importlib
import re
from types import CodeType

import pytest

from tests.cookiecutter import conftest
from tests.support.pages import PAGES, blocks, run_block, text_of
from tests.support.project import Message, Room

BLOCKS = [(page, number) for page in PAGES for number in range(len(blocks(page)))]


def global_names(code):
    """The names that ``code``, and the functions in it, look up outside themselves."""
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
        elif isinstance(instruction.argval, CodeType):
            yield from global_names(instruction.argval)


@pytest.mark.parametrize(("page", "number"), BLOCKS)
def test_a_block_runs_and_knows_all_its_names(page, number, config, directory):
    code, file = blocks(page)[number]
    if file is not None:
        module = importlib.import_module(file.removesuffix(".py"))
    elif "dbengine" in code:
        # It goes into the conftest.py of the cookiecutter.
        module = run_block(page, number, **vars(conftest))
    else:
        module = run_block(page, number, config=config, Message=Message, Room=Room)
    # What classes name is theirs, or already there.
    known = {*vars(module), *vars(builtins), *_class_names(module)}
    assert {*global_names(compile(code, page, "exec"))} <= known
    config.commit()


def _class_names(module):
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    return {name for each in classes for name in (*vars(each), "__name__", "__qualname__")}


@pytest.mark.parametrize("page", PAGES)
def test_no_block_of_python_is_missed(page):
    assert len(re.findall(r"code-block:: *(?:python|py)\b", text_of(page))) == len(blocks(page))
