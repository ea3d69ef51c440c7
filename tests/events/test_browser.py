"""Event streams as a browser's own ``EventSource`` reads them."""

import re

import pytest

from tests.support.browser import browsing
from tests.support.clients import HOST
from tests.support.servers import running
from tests.support.streams import cases

pytestmark = [pytest.mark.browser, pytest.mark.streams]

READ = """
([url, names]) => new Promise(resolve => {
    const got = [];
    const source = new EventSource(url);
    for (const name of names)
        source.addEventListener(name, it => got.push([it.data, it.type, it.lastEventId]));
    source.addEventListener("end", () => { source.close(); resolve(got); });
})
"""


def test_any_data_name_and_id_arrive_as_they_were_sent(tmp_path):
    sent = cases()
    names = sorted({name or "message" for _, name, _ in sent})
    expected, last = [], ""
    for data, name, id in sent:
        last = last if id is None else id
        expected.append([re.sub("\r\n|\r", "\n", data), name or "message", last])
    with running("uvicorn-sansio", tmp_path, app="tests.apps.streamsapp:app") as server:
        with browsing(f"http://{HOST}:{server.port}/page") as page:
            assert page.evaluate(READ, ["/exact", names]) == expected
