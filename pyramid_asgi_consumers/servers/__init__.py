"""Serves with Daphne, Uvicorn or Hypercorn for ``pserve``.

Each is an entry point of the group ``paste.server_runner``: the ini's ``[server:main]`` says
``use = egg:pyramid_asgi_consumers#daphne``. ``listen`` is what it is for waitress: one or more
``host:port``. The other options of that section are the server's own, by the names that it knows,
with ``-`` and ``_`` alike. Logging is the ini's.

The functions are in ``runners.py``; ``options.py`` says how options are read, ``listening.py`` what
``listen`` does.
"""

from pyramid_asgi_consumers.servers.runners import daphne, hypercorn, uvicorn

__all__ = ["daphne", "hypercorn", "uvicorn"]
