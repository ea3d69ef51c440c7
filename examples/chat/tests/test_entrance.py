"""Who comes in, and how."""

import pytest

PAGES = ["/", "/rooms/kitchen", "/rooms/kitchen/people", "/rooms/kitchen?before=3"]


@pytest.mark.parametrize("page", PAGES)
def test_who_is_not_logged_in_is_sent_to_the_login_and_back_to_the_page(stranger, page):
    answer = stranger.get(page, headers={"Accept": "text/html"}, status=303)
    form = answer.follow().form
    form["name"], form["password"] = "eve", "secret"
    assert form.submit().location == f"http://localhost{page}"


def test_a_script_that_is_not_logged_in_gets_403(stranger):
    answer = stranger.get("/", headers={"Accept": "application/json"}, status=403)
    assert answer.json == {"message": "You may not go in there."}


@pytest.mark.parametrize("name", ["ann", "nobody"])
def test_a_wrong_password_is_told_and_lets_nobody_in(stranger, name):
    answer = stranger.submit("/login", name=name, password="wrong")
    assert answer.status_int == 403
    assert answer.html.find(role="alert")
    assert answer.form["name"].value == name
    stranger.get("/", headers={"Accept": "text/html"}, status=303)


@pytest.mark.parametrize(
    "elsewhere", ["https://example.com/", "//example.com", "/\\example.com", "javascript:x()"]
)
def test_a_login_leads_to_no_other_site(stranger, elsewhere):
    form = stranger.get("/login", {"next": elsewhere}).form
    form["name"], form["password"] = "ann", "secret"
    assert form.submit().location == "http://localhost/"


def test_who_is_logged_in_needs_no_login(ann):
    assert ann.get("/login", {"next": "/rooms/garden"}, status=303).location.endswith("/garden")


def test_a_login_begins_a_new_session(stranger):
    before = stranger.get("/login").form["csrf_token"].value
    stranger.log_in("ann")
    assert stranger.get("/").forms[0]["csrf_token"].value != before


def test_a_form_of_another_site_does_nothing(ann):
    answer = ann.post("/logout", headers={"Accept": "text/html"}, status=400)
    assert "too old" in answer.html.main.text
    ann.get("/")


def test_a_login_that_was_open_for_long_is_asked_for_once_more(stranger):
    old = stranger.get("/login", {"next": "/rooms/garden"}).form
    stranger.reset()
    page = old.submit(status=303).follow()
    assert "too old" in page.html.find(role="alert").text
    page.form["name"], page.form["password"] = "ann", "secret"
    assert page.form.submit().location.endswith("/rooms/garden")


def test_a_login_in_another_tab_is_enough(stranger):
    old = stranger.get("/login").form
    stranger.log_in("ann")
    old["name"], old["password"] = "ann", "secret"
    assert old.submit(status=303).follow(status=303).location == "http://localhost/"


def test_demonstrations_say_how_to_log_in(stranger, app, monkeypatch):
    assert "password is" not in stranger.get("/login").html.main.text
    monkeypatch.setitem(app.registry.settings, "chat.demo", "true")
    assert "The password is chat" in stranger.get("/login").html.main.text


def test_after_the_logout_pages_ask_for_the_login(ann):
    assert ann.submit("/").location == "http://localhost/login"
    ann.get("/", headers={"Accept": "text/html"}, status=303)


def test_a_cookie_of_before_the_logout_is_worth_nothing(ann):
    cookies = dict(ann.cookies)
    ann.submit("/")
    for name, value in cookies.items():
        ann.set_cookie(name, value)
    ann.get("/", headers={"Accept": "text/html"}, status=303)


def test_what_was_open_when_another_tab_logged_out_leads_to_the_login(ann):
    form = ann.get("/rooms/kitchen").forms["composer"]
    ann.submit("/")
    form["csrf_token"] = ann.get("/login").form["csrf_token"].value
    form["text"] = "hello"
    answer = form.submit(headers={"Accept": "text/html"}, status=303)
    assert answer.location == "http://localhost/login"


def test_answers_are_not_kept_and_run_no_other_scripts(ann):
    headers = ann.get("/").headers
    assert headers["Cache-Control"] == "no-store"
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "max-age=60" in ann.get("/static/chat.css").headers["Cache-Control"]
    cookie = ann.get("/login", status=303).request.headers["Cookie"]
    assert cookie.startswith("session=")


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(stranger):
    cookie = stranger.get("/login").headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
