"""Looks at Pyramid's wiki2 tutorial, with the debug toolbar, at a URL: ``look.py URL``."""

import re
import sys
import time
import urllib.error
import urllib.request

import webtest


def wait_for(url):
    deadline = time.monotonic() + 30
    while True:
        try:
            return urllib.request.urlopen(url, timeout=10).close()
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main(url):
    wait_for(url)
    # Hypercorn says no reason with a status, and HTTP wants none.
    testapp = webtest.TestApp(url, lint=False)
    page = testapp.get("/").follow()
    page.mustcontain("This is the front page", "Login", no="Logout")
    form = testapp.get("/login").form
    form["login"], form["password"] = "editor", "editor"
    page = form.submit(status=303).follow().follow()
    page.mustcontain("Logout")

    forms = testapp.get("/FrontPage/edit_page").forms.values()
    form = next(form for form in forms if "body" in form.fields)
    form["body"] = "The page has moved, äöü"
    form.submit("form.submitted", status=303).follow().mustcontain("has moved, äöü")

    style = testapp.get("/static/theme.css")
    assert style.content_type == "text/css", style.content_type
    assert len(style.body) == style.content_length
    since = {"If-Modified-Since": style.headers["Last-Modified"]}
    testapp.get("/static/theme.css", headers=since, status=304)
    testapp.get("/static/none.css", status=404).mustcontain("404")

    # The toolbar's button is in the page, and leads to panels.
    shown = re.search(r'href="([^"]*/_debug_toolbar/[0-9]+)"', testapp.get("/FrontPage").text)
    toolbar = testapp.get(shown.group(1))
    toolbar.mustcontain("HTTP Headers", "SQLAlchemy", "SELECT", "FrontPage")
    style = re.search(r'href="([^"]*/_debug_toolbar/static/[^"]*\.css)"', toolbar.text)
    assert testapp.get(style.group(1)).content_type == "text/css"


main(sys.argv[1])
