"""Serves with Daphne, Uvicorn or Hypercorn for ``pserve``.

Each is an entry point of the group ``paste.server_runner``: the ini's ``[server:main]`` says
``use = egg:pyramid_asgi_consumers#daphne``. ``listen`` is what it is for waitress: one or more
``host:port``. The other options of that section are the server's own, by the names that it knows,
with ``-`` and ``_`` alike. Logging is the ini's.
"""

import asyncio
import contextlib
import enum
import inspect
import logging
import signal
import socket
import sys
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyramid.exceptions import ConfigurationError
from pyramid.router import Router
from pyramid.settings import aslist, falsey, truthy

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.lifespan import running
from pyramid_asgi_consumers.shown import Shown

log = logging.getLogger(__name__)

INSTALL = 'pip install "pyramid_asgi_consumers[{}]"'
RELOAD = "pserve --reload restarts the server on a change"
PROCESSES = "pserve is one process; start several, or serve from the command line"
IMPORT = "pserve has made the application already"

# Where ``listen`` names no port, as waitress has it.
DEFAULT_PORT = "8080"


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
        def load_asgi_app(self, path):
            return app

        def server_class(self, action_logger, **arguments):
            if action_logger is not None and action_logger.stream is sys.stdout:
                if not {"access_log", "access-log"} & options.keys():
                    action_logger = AccessLogGenerator(_AccessLog())
            return Server(action_logger=action_logger, **arguments)

    def error(message):
        raise ConfigurationError(f"daphne: {message}")

    interface = Interface()
    interface.parser.error = error
    known = {}
    for action in interface.parser._actions:
        strings = [string for string in action.option_strings if string.startswith("--")]
        for name in [*strings, action.dest] if strings else ():
            option = Option(strings[0], action.nargs == 0, is_list=action.default == [])
            known.setdefault(_normal(name), option)
    del known["help"]
    addresses, options = _listening("daphne", options, ("bind", "port", "endpoint"))
    arguments = _arguments("daphne", options, known, {})
    sockets = _bound("daphne", addresses)
    for each in sockets:
        # Twisted takes a descriptor that listens; with its own backlog of 50.
        each.listen(50)
        arguments += ["--endpoint", f"fd:fileno={each.fileno()}"]
    with _failure("daphne"):
        interface.run([*arguments, "pyramid"])


class _AccessLog:
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

    addresses, options = _listening("uvicorn", options, ("host", "port", "uds", "fd"))
    known = {}
    for parameter in main.params:
        if parameter.param_type_name == "option" and parameter.expose_value:
            off = next(iter(parameter.secondary_opts), None)
            option = Option(parameter.opts[0], parameter.is_flag, off, parameter.multiple)
            known.update({_normal(name): option for name in (*parameter.opts, parameter.name)})
    unusable = {name: RELOAD for name in known if name.startswith("reload")}
    unusable.update(workers=PROCESSES, factory=IMPORT, app_dir=IMPORT, env_file=IMPORT)
    arguments = _arguments("uvicorn", options, known, unusable)
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
            sockets = [stack.enter_context(each) for each in _bound("uvicorn", addresses)]
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
    addresses, options = _listening("hypercorn", options, ("bind",))
    known = _attributes(config)
    unusable = {
        "daemon": PROCESSES,
        "debug": "set PYTHONASYNCIODEBUG=1 in the environment",
        "logconfig_dict": "logconfig names a file",
        "loglevel": "the ini sets the levels of loggers",
        "pid_path": PROCESSES,
        "use_reloader": RELOAD,
        "workers": PROCESSES,
    }
    for given, (name, kind), value in _known("hypercorn", options, known, unusable):
        try:
            setattr(config, name, _converted(kind, value))
        except (KeyError, ValueError) as error:
            raise ConfigurationError(f"hypercorn: {given} = {value}: {error!r}") from None
    loops = {"asyncio": None}
    if config.worker_class == "uvloop":
        with _missing("pip install uvloop"):
            import uvloop

        loops["uvloop"] = uvloop.new_event_loop
    if config.worker_class not in loops:
        raise ConfigurationError(
            f'hypercorn: worker_class must be "asyncio" or "uvloop", not {config.worker_class!r}'
        )
    if addresses:
        config.bind = [f"fd://{each.detach()}" for each in _bound("hypercorn", addresses)]
    with Runner(loop_factory=loops[config.worker_class]) as runner:
        runner.run(_serve_hypercorn(app, config, serve))


async def _serve_hypercorn(app: Any, config: Any, serve: Any) -> None:
    # The contexts are entered here, so that they are left whatever becomes of the connections:
    # Hypercorn 0.18 waits without a bound for a client that does not read, and with the event loop
    # of Python 3.12 and later for all of them.
    loop = asyncio.get_running_loop()
    stopping, overdue = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopping.set))
    context = running(app)
    state = await asyncio.wait_for(context.__aenter__(), config.startup_timeout)
    served = _Served(app, state)
    # In Hypercorn's place.
    bound, config.graceful_timeout = config.graceful_timeout, None

    async def stop() -> None:
        try:
            await stopping.wait()
        finally:
            # Hypercorn cancels this where it ends by itself, after max_requests.
            loop.call_later(bound, overdue.set)
            await served.close()

    before = asyncio.all_tasks()
    server = asyncio.create_task(serve(served, config, shutdown_trigger=stop, mode="asgi"))
    watch = asyncio.create_task(overdue.wait())
    try:
        await asyncio.wait([server, watch], return_when=asyncio.FIRST_COMPLETED)
        if server.done():
            watch.cancel()
            server.result()
        else:
            log.warning("Connections are still open after %g s", bound)
            await cancel_others(before)
    finally:
        await asyncio.wait_for(context.__aexit__(None, None, None), config.shutdown_timeout)


async def cancel_others(tasks: set[asyncio.Task[Any]]) -> None:
    # A connection of Hypercorn's that is cancelled closes, for which it waits until it is
    # cancelled again; so does what it still sends.
    for _ in range(3):
        others = asyncio.all_tasks() - tasks
        if others:
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=0.5)
    stubborn.leave_alone(asyncio.all_tasks() - tasks, 1.5)


class _Served:
    """``app`` for Hypercorn, which would break websockets off when it stops."""

    def __init__(self, app: Any, state: Mapping[str, Any]) -> None:
        self.app = app
        self.state = state
        self.open: set[Any] = set()
        self.is_closing = False

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _lifespan(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        scope["state"].update(self.state)
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    async def _websocket(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        def tracked(message: dict[str, Any]) -> Any:
            if message["type"] == "websocket.accept" and not self.is_closing:
                self.open.add(send)
            elif self.is_closing and send not in self.open:
                raise OSError("The server stops")
            elif message["type"] == "websocket.close":
                self.open.discard(send)
            return send(message)

        try:
            await self.app(scope, receive, tracked)
        finally:
            self.open.discard(send)

    async def close(self) -> None:
        """Close all websockets with 1012, "service restart" (RFC 6455 section 7.4)."""
        self.is_closing = True
        if self.open:
            # A client that reads nothing does not hold the others up.
            await asyncio.wait(
                [asyncio.ensure_future(self._close(s)) for s in self.open], timeout=1
            )

    async def _close(self, send: Any) -> None:
        # Its consumer may end before this runs.
        if send in self.open:
            self.open.discard(send)
            await send({"type": "websocket.close", "code": 1012, "reason": ""})


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


# Options.


@dataclass(frozen=True)
class Option:
    """An option of a command line: ``string`` is typed for it, or ``off`` where a flag is false."""

    string: str
    is_flag: bool = False
    off: str | None = None
    is_list: bool = False

    def arguments(self, value: str) -> list[str]:
        """What to type for ``value``; ValueError for a flag that is neither true nor false."""
        if self.is_flag:
            typed = self.string if _boolean(value) else self.off
            return [] if typed is None else [typed]
        values = aslist(value, flatten=False) if self.is_list else [value]
        return [f"{self.string}={each}" for each in values]


def _listening(
    server: str, options: Mapping[str, str], others: tuple[str, ...]
) -> tuple[list[tuple[int, Any]], dict[str, str]]:
    """Family and address of the sockets that ``listen`` names, and the other options.

    No addresses where there is no ``listen``. ``others`` are the options that it stands for.
    """
    remaining = {name: value for name, value in options.items() if name != "listen"}
    if "listen" not in options:
        return [], remaining
    for given, value in remaining.items():
        if _normal(given) in others:
            raise ConfigurationError(
                f"{server}: listen = {options['listen']} and {given} = {value}: give one of the two"
            )
    entries = aslist(options["listen"])
    if not entries:
        raise ConfigurationError(f"{server}: listen must be one or more host:port, not empty")
    found = (address for entry in entries for address in _addresses(server, entry))
    return list(dict.fromkeys(found)), remaining


def _addresses(server: str, entry: str) -> Iterator[tuple[int, Any]]:
    """Family and address of each socket that ``entry`` of ``listen`` stands for."""
    # waitress's grammar: host:port, host, *:port, [::1]:port.
    host, separator, port = entry.rpartition(":")
    if not separator or "]" in port:
        host, port = entry, DEFAULT_PORT
    host = host.removeprefix("[").removesuffix("]")
    try:
        if not host:
            raise ValueError("no host; * stands for all")
        # getaddrinfo() takes greater ones for smaller ones.
        if port.isdigit() and int(port) > 65535:
            raise ValueError("no such port")
        found = socket.getaddrinfo(
            None if host == "*" else host,
            port,
            type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{server}: listen must be one or more host:port, not {entry!r} ({error})"
        ) from None
    for family, _, _, _, address in found:
        yield family, address


def _bound(server: str, addresses: list[tuple[int, Any]]) -> list[socket.socket]:
    """Sockets for these addresses, which do not listen yet. OSError where one is taken."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for family, address in addresses:
            bound = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # There may be one of IPv4 beside it.
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                bound.bind(address)
            except OSError as error:
                where = f"{server} cannot listen on {address[0]} port {address[1]}"
                raise OSError(error.errno, f"{where}: {error.strerror}") from error
            sockets.append(bound)
        stack.pop_all()
    for bound in sockets:
        log.info("%s listens on %s port %d", server, *bound.getsockname()[:2])
    return sockets


def _arguments(
    server: str, options: Mapping[str, str], known: dict[str, Option], unusable: Mapping[str, str]
) -> list[str]:
    arguments = []
    for given, option, value in _known(server, options, known, unusable):
        try:
            arguments += option.arguments(value)
        except ValueError as error:
            raise ConfigurationError(f"{server}: {given} = {value}: {error}") from None
    return arguments


def _known(
    server: str, options: Mapping[str, str], known: dict[str, Any], unusable: Mapping[str, str]
) -> Iterator[tuple[str, Any, str]]:
    for given, value in options.items():
        name = _normal(given)
        if name in unusable:
            raise ConfigurationError(f"{server}: {given} = {value} is of no use: {unusable[name]}")
        if name not in known:
            there = ", ".join(sorted(known.keys() - unusable.keys()))
            raise ConfigurationError(f"{server} has no option {given!r}; there are: {there}")
        yield given, known[name], value


def _normal(name: str) -> str:
    return name.lstrip("-").replace("-", "_")


def _boolean(value: str) -> bool:
    if value.lower() not in truthy | falsey:
        raise ValueError(f"it is none of {', '.join(sorted(truthy | falsey))}")
    return value.lower() in truthy


def _attributes(config: Any) -> dict[str, tuple[str, Any]]:
    """The name and type of what can be set on Hypercorn's ``config``."""
    hints = typing.get_type_hints(type(config))
    attributes = {}
    for name in dir(type(config)):
        default = getattr(type(config), name)
        if isinstance(default, property):
            if default.fget is None or default.fset is None:
                continue
            default = default.fget(config)
        elif name.startswith("_") or callable(default):
            continue
        # Where there is no default the type is a union with None.
        kinds = (type(default),) if default is not None else typing.get_args(hints[name])
        attributes[name] = (name, str if str in kinds else kinds[0])
    return attributes


def _converted(kind: Any, value: str) -> Any:
    if kind is bool:
        return _boolean(value)
    if kind is list:
        return aslist(value, flatten=False)
    return kind[value] if issubclass(kind, enum.Enum) else kind(value)


# Failures.


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
