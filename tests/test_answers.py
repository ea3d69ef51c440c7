"""Work that outlives its reader, as docs/streams.rst has it, over each backend of channels."""

import pytest
from pyramid.config import Configurator

from pyramid_asgi_consumers.testing import TestApp
from tests.support.pages import run_block

QUESTION = " ".join(f"word{number}" for number in range(20))


def application(url, history="1000"):
    settings = {"asgi.channels": url, "asgi.channels.history": history}
    config = Configurator(settings=settings)
    config.include("pyramid_asgi_consumers")
    module = run_block("streams", 2, config=config)
    return module, config.make_asgi_app()


@pytest.mark.parametrize("backend", ["memory", pytest.param("redis", marks=pytest.mark.redis)])
def test_any_reader_gets_the_whole_answer_and_the_job_runs_once(backend, request):
    url = "memory://"
    if backend == "redis":
        url = request.getfixturevalue("redis_server").url
    module, app = application(url)
    begun = []
    write = module.write

    def counted(channels, name, question):
        begun.append(name)
        return write(channels, name, question)

    module.write = counted
    with TestApp(app) as testapp:
        asked = testapp.post("/answers", {"question": QUESTION}, status=303)
        # It is written while this is read.
        assert asked.follow().text == f"{QUESTION} "
        # The page is reloaded when all of it is there.
        assert asked.follow().text == f"{QUESTION} "
        if backend == "redis":
            _, other = application(url)
            with TestApp(other) as elsewhere:
                assert elsewhere.get(asked.location).text == f"{QUESTION} "
    assert len(begun) == 1


def test_a_reader_that_leaves_does_not_end_the_job():
    module, app = application("memory://")
    with TestApp(app) as testapp:
        asked = testapp.post("/answers", {"question": QUESTION}, status=303)
        (job,) = module.jobs
        testapp.head(asked.location)
        assert not job.cancelled()
        assert asked.follow().text == f"{QUESTION} "


def test_an_answer_of_which_the_history_has_lost_a_part_is_broken_off():
    _, app = application("memory://", "5")
    with TestApp(app) as testapp:
        asked = testapp.post("/answers", {"question": QUESTION}, status=303)
        with pytest.raises(AttributeError, match="data"):
            asked.follow()
            asked.follow()
