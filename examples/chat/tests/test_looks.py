"""What can be said of looks without looking."""

import re
from pathlib import Path

import pytest

CSS = Path(__file__).parent.parent.joinpath("chat", "static", "chat.css").read_text()
LIGHT, DARK = (
    dict(re.findall(r"--([\w-]+): (#\w{6});", block))
    for block in re.findall(r":root \{(.*?)\n *\}", CSS, re.DOTALL)
)

#: A text, or the edge of a control, what it stands on, and the contrast that WCAG 2.2 AA asks for.
PAIRS = [
    *(("text", ground, 4.5) for ground in ("ground", "surface", "sunken", "own")),
    *(("muted", ground, 4.5) for ground in ("ground", "surface", "sunken")),
    *(("accent", ground, 4.5) for ground in ("ground", "surface")),
    ("on-accent", "accent", 4.5),
    ("on-accent", "accent-hover", 4.5),
    ("danger", "danger-ground", 4.5),
    ("control", "surface", 3),
]


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("front", "back", "least"), PAIRS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_differ_enough_to_read(colours, front, back, least):
    darker, lighter = sorted([luminance(colours[front]), luminance(colours[back])])
    assert (lighter + 0.05) / (darker + 0.05) >= least


@pytest.mark.parametrize("page", ["/", "/rooms/kitchen", "/rooms/kitchen/people", "/nothing"])
def test_pages_have_a_heading_landmarks_and_names_for_controls(eve, page):
    html = eve.get(page, headers={"Accept": "text/html"}, status="*").html
    assert len(html.find_all("h1")) == len(html.find_all("main")) == 1
    assert html.html["lang"] and html.title.text.endswith("Chat")
    skip = html.find(class_="skip")
    assert html.find(id=skip["href"][1:])
    labelled = {label["for"] for label in html.find_all("label")}
    for control in html.find_all(["input", "textarea"]):
        assert control.get("type") == "hidden" or control["id"] in labelled
    for control in html.find_all(["button", "a"]):
        assert control.text.strip() or control.img
    for image in html.find_all("img"):
        assert image["alt"]
    for image in html.find_all("svg"):
        assert image["aria-hidden"] == "true"
