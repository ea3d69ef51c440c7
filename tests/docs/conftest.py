"""What the blocks of the documentation are run in."""

import sys

import pytest

from tests.support.pages import PAGES, blocks
from tests.support.project import make_config, make_engine, texts


@pytest.fixture
def config(tmp_path):
    """The project that the blocks belong to, with a page that shows its messages."""
    engine = make_engine(tmp_path / "test.db")
    config = make_config(engine)
    config.add_route("texts", "/texts")
    config.add_view(texts, route_name="texts", renderer="json")
    config.commit()
    yield config
    engine.dispose()


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """The directory of somebody who has saved the examples, and works there."""
    saved = {
        file: code
        for page in PAGES
        for language in ("python", "html+jinja")
        for code, file in blocks(page, language)
        if file
    }
    for file, code in saved.items():
        (tmp_path / file).write_text(code)
    (tmp_path / "production.ini").write_text("[app:main]\nuse = call:app:main\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for file in saved:
        sys.modules.pop(file.removesuffix(".py"), None)
