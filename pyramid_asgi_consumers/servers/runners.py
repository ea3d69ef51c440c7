"""The functions that ``pserve`` calls to serve: one for each server, until it is told to stop.

Each checks the application, reads the ini's options (``options.py``), binds what ``listen`` names
(``listening.py``) and runs the server in the main thread, with the server's own function where it
has one. What Hypercorn needs to stop in good order is in ``quirks/hypercorn_stopping.py``.
"""

import contextlib
import inspect
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from pyramid.exceptions import ConfigurationError
from pyramid.router import Router

from pyramid_asgi_consumers.lifespan import running
from pyramid_asgi_consumers.quirks.hypercorn_stopping import serve_until_told
from pyramid_asgi_consumers.servers import options as reading
from pyramid_asgi_consumers.servers.listening import bind, take_listen
from pyramid_asgi_consumers.shown import Shown

# What to do instead, where something is missing or of no use.
INSTALL = 'pip install "pyramid_asgi_consumers[{}]"'
RELOAD = "pserve --reload restarts the server on a change"
PROCESSES = "pserve is one process; start several, or serve from the command line"
IMPORT = "pserve has made the application already"


def daphne(app: Any, global_conf: Any = None, **options: str) -> None:
    """Serve ``app`` with Daphne until it is told to stop; ``options`` are its command line's.

    Accesses go to the logger ``daphne.access``, unless ``access_log`` names a file.

    Raises ConfigurationError for an option that Daphne does not know or cannot use and for an
    ``app`` of WSGI, and RuntimeError where it does not start.
    """
    _check_application("daphne", app)
    with _missing(INSTALL.format("daphne")):
        from daphne.access import AccessLogGenerator
        from daphne.cli import CommandLineInterface
        from daphne.server import Server

    class Interface(CommandLineInterface):
        def load_asgi_app(self, path: str) -> Any:
            return app

        def server_class(self, action_logger: Any, **arguments: Any) -> Any:
            if action_logger is not None and action_logger.stream is sys.stdout:
                if not {"access_log", "access-log"} & options.keys():
                    action_logger = AccessLogGenerator(AccessLog())
            return Server(action_logger=action_logger, **arguments)

    def error(message: str) -> NoReturn:
        raise ConfigurationError(f"daphne: {message}")

    interface = Interface()
    interface.parser.error = error
    addresses, options = take_listen("daphne", options, ("bind", "port", "endpoint"))
    arguments = reading.typed("daphne", options, reading.of_parser(interface.parser), {})
    sockets = bind("daphne", addresses)
    for each in sockets:
        # Twisted takes a descriptor that listens; with its own backlog of 50.
        each.listen(50)
        arguments += ["--endpoint", f"fd:fileno={each.fileno()}"]
    with _failure("daphne"):
        interface.run([*arguments, "pyramid"])


class AccessLog:
    """Where Daphne writes its accesses, a line each."""

    log = logging.getLogger("daphne.access")

    def write(self, line: str) -> None:
        self.log.info("%s", Shown(line.rstrip("\n"), most=2000, quoted=False))


def uvicorn(app: Any, global_conf: Any = None, **options: str) -> None:
    """Serve ``app`` with Uvicorn until it is told to stop; ``options`` are its command line's.

    Raises ConfigurationError for an option that Uvicorn does not know or cannot use and for an
    ``app`` of WSGI, and RuntimeError where it does not start.
    """
    _check_application("uvicorn", app)
    with _missing(INSTALL.format("uvicorn")):
        import click
        from uvicorn import Config, Server, main, run

    addresses, options = take_listen("uvicorn", options, ("host", "port", "uds", "fd"))
    known = reading.of_parameters(main.params)
    unusable = {name: RELOAD for name in known if name.startswith("reload")}
    unusable.update(workers=PROCESSES, factory=IMPORT, app_dir=IMPORT, env_file=IMPORT)
    arguments = reading.typed("uvicorn", options, known, unusable)
    try:
        given = main.make_context("uvicorn", ["pyramid", *arguments]).params
    except click.UsageError as error:
        raise ConfigurationError(f"uvicorn: {error.format_message()}") from None
    given = {name: value for name, value in given.items() if name not in {"app", *unusable}}
    given["headers"] = [header.split(":", 1) for header in given["headers"]]
    with _failure("uvicorn"):
        if not addresses:
            return run(app, workers=1, **given)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(each) for each in bind("uvicorn", addresses)]
            # A Ctrl-C comes out of it; run() drops it, too.
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
            Server(Config(app, workers=1, **given)).run(sockets)


def hypercorn(app: Any, global_conf: Any = None, **options: str) -> None:
    """Serve ``app`` with Hypercorn until it is told to stop.

    ``options`` are the attributes of its configuration file, lists a value per line.

    Raises ConfigurationError for an option that Hypercorn does not know or cannot use and for an
    ``app`` of WSGI, OSError where it cannot listen, and LifespanError where the application does
    not start.
    """
    _check_application("hypercorn", app)
    with _missing(INSTALL.format("hypercorn")):
        from hypercorn.asyncio import serve
        from hypercorn.asyncio.run import Runner
        from hypercorn.config import Config

    config = Config()
    config.accesslog = logging.getLogger("hypercorn.access")
    config.errorlog = logging.getLogger("hypercorn.error")
    addresses, options = take_listen("hypercorn", options, ("bind",))
    known = reading.of_configuration(config)
    unusable = {
        "daemon": PROCESSES,
        "debug": "set PYTHONASYNCIODEBUG=1 in the environment",
        "logconfig_dict": "logconfig names a file",
        "loglevel": "the ini sets the levels of loggers",
        "pid_path": PROCESSES,
        "use_reloader": RELOAD,
        "workers": PROCESSES,
    }
    for name, value in reading.values("hypercorn", options, known, unusable):
        setattr(config, name, value)
    loops: dict[str, Any] = {"asyncio": None}
    if config.worker_class == "uvloop":
        with _missing("pip install uvloop"):
            import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    if config.worker_class not in loops:
        raise ConfigurationError(
            f'hypercorn: worker_class must be "asyncio" or "uvloop", not {config.worker_class!r}'
        )
    if addresses:
        config.bind = [f"fd://{each.detach()}" for each in bind("hypercorn", addresses)]
    with Runner(loop_factory=loops[config.worker_class]) as runner:
        runner.run(serve_until_told(app, running(app), config, serve))


def _check_application(server: str, app: Any) -> None:
    # A composite or a pipeline of the ini is a WSGI application around ours.
    # It is looked for as servers do.
    called = app if inspect.isroutine(app) else app.__call__
    if isinstance(app, Router):
        raise ConfigurationError(
            f"{server} serves what config.make_asgi_app() returns, and main returns"
            " config.make_wsgi_app(): change that line"
        )
    if not inspect.iscoroutinefunction(called):
        raise ConfigurationError(
            f"{server} serves what config.make_asgi_app() returns, not {app!r}. A composite or a"
            " pipeline of the ini makes a WSGI application of it: put WSGI middleware around the"
            " pages in main, make_asgi_app(Middleware(config.make_wsgi_app())), mount another ASGI"
            " application with add_asgi_app, and name the application itself in [app:main]"
        )


@contextmanager
def _missing(remedy: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}: {remedy}") from error


@contextmanager
def _failure(server: str) -> Iterator[None]:
    # pserve takes an exit for the user's wish, and ends with the status 0.
    try:
        yield
    except SystemExit as error:
        if error.code:
            raise RuntimeError(f"{server} does not start; it has logged why") from error
        raise
