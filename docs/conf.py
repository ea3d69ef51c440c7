"""Sphinx's configuration: ``sphinx-build -W -b html docs docs/_build``."""

import re
from importlib.metadata import version as version_of

project = "pyramid_asgi_consumers"
release = version_of(project)
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc", "repoze.sphinx.autointerface"]
exclude_patterns = ["_build"]
highlight_language = "none"
smartquotes = False
# What is named and is not there is an error: a page, a heading, a public name. Names of
# other packages would need the network; those of inner modules stand in annotations.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(_?asyncio|collections|pyramid|types|typing|webob|webtest|zope)\..*"),
    ("py:.*", r"pyramid_asgi_consumers\.\w+\.\w+\..*"),
]

add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"

html_theme = "pyramid"
html_title = f"{project} {release}"
html_show_copyright = False
html_show_sourcelink = False


def without_config(app, what, name, obj, options, signature, return_annotation):
    """Directives are methods of the configurator, which shows no ``config``."""
    if what == "function" and name.startswith("pyramid_asgi_consumers.config."):
        return re.sub(r"^\((config|request)(, )?", "(", signature), return_annotation
    return None


def setup(app):
    app.connect("autodoc-process-signature", without_config)
