"""One WSGI response: made in a worker thread, sent by the event loop.

:class:`Response` has two sides. :meth:`Response.run` and what it calls belong to the worker thread,
:meth:`Response.send_to` and what it calls to the event loop. Between them is a
:class:`.Handover`; what the application has to keep to is an :class:`.Answer`.
"""

import asyncio
import contextvars
import io
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import Any, BinaryIO

from pyramid_asgi_consumers import stubborn
from pyramid_asgi_consumers.async_bodies import AsyncBody, is_async
from pyramid_asgi_consumers.async_views import LOOP_ARGUMENTS, Receive
from pyramid_asgi_consumers.exceptions import ClientDisconnected, WSGIError
from pyramid_asgi_consumers.raised import carried
from pyramid_asgi_consumers.turns import Turns, until_left
from pyramid_asgi_consumers.wsgi.answer import Answer
from pyramid_asgi_consumers.wsgi.handover import Ahead, ClientGone, Handover
from pyramid_asgi_consumers.wsgi.sources import FileWrapper, OpenFile, close, remaining
from pyramid_asgi_consumers.wsgi.streaming import Streaming
from pyramid_asgi_consumers.wsgi.threads import Settler, ThreadPool

log = logging.getLogger(__name__)

# So much of a file is read at a time. One that is no larger is read where it was opened.
BLOCK = 256 * 1024

Send = Callable[[dict[str, Any]], Awaitable[None]]


class Response:
    """What ``wsgi_app`` answers to ``environ``.

    ``body`` is the request's, and is closed at the end. ``pool`` runs the response, and reads the
    files that it returns. ``settler`` is that of the event loop, ``ahead`` that of the bridge;
    ``stopping`` is as :class:`.Streaming` has it.
    Create it on the loop, give :meth:`run` to the pool, and await :meth:`send_to`.
    """

    #: Whether ``http.response.start`` was sent.
    sent = False
    #: What the application raised, or its file.
    error: BaseException | None = None

    # The response while it is one chunk, which need not be put; None where chunks are.
    _single: bytes | None = None

    def __init__(
        self,
        wsgi_app: Callable[..., Any],
        environ: dict[str, Any],
        body: BinaryIO,
        settler: Settler,
        pool: ThreadPool,
        ahead: Ahead,
        stopping: Any = None,
    ) -> None:
        self.wsgi_app = wsgi_app
        self.environ = environ
        self.body = body
        self.pool = pool
        self.ahead = ahead
        self.stopping = stopping
        self.answer = Answer(environ["REQUEST_METHOD"])
        self.handover = Handover(settler, ahead)
        self._loop = settler.loop
        #: The contextvars of :meth:`run`, which is to be called in it.
        self.context = contextvars.copy_context()

    # In the worker thread.

    def run(self) -> None:
        """Call the application and hand on what it answers, to the end."""
        error: BaseException | None = None
        file: OpenFile | None = None
        stream: AsyncBody | None = None
        try:
            result = self.wsgi_app(self.environ, self.start_response)
            try:
                if type(result) is not list and self.answer.head is not None:
                    if isinstance(result, FileWrapper):
                        opened = self._start_file(result, self.answer.head[1])
                        if opened is not None and self._is_small():
                            self._single = self._read_all(opened)
                        else:
                            file = opened
                    else:
                        if is_async(result):
                            # A tween, or middleware, has put it there.
                            result = AsyncBody(result, self.environ.get(LOOP_ARGUMENTS))
                        stream = self._start_stream(result)
                if file is None and stream is None and self._single is None:
                    self._iterate(result)
            finally:
                if file is None and stream is None:
                    close(result)
        except ClientGone:
            pass
        except BaseException as exception:
            error = carried(exception)
        self.error = error
        single = self._single
        if error is not None:
            heard = self.handover.finish(error, rest=single or b"")
        elif file is not None or stream is not None:
            heard = self.handover.finish(None, file=file, stream=stream)
        else:
            heard = self.handover.finish(None, whole=single)
        if not heard:
            self._log_unheard()
            if stream is not None:
                close(stream)
                stream = None
        if file is None and stream is None:
            self.body.close()
        elif file is not None and not heard:
            file.close()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's ``start_response``; returns its ``write``."""
        self.answer.start_response(status, headers, exc_info)
        return self.write

    def write(self, data: bytes) -> None:
        """PEP 3333's ``write``: send ``data`` now.

        Raises :class:`ClientDisconnected` where the client has left.
        """
        if not self._single:
            self._single = None
        try:
            self._put(data)
        except ClientGone:
            raise ClientDisconnected("The client left during its response") from None

    def _start_file(
        self, wrapper: FileWrapper, headers: list[tuple[bytes, bytes]]
    ) -> OpenFile | None:
        """The file, if the event loop's side is to send it; None if it is to be iterated here."""
        answer = self.answer
        if answer.started:
            return None
        told = any(name == b"content-length" for name, _ in headers)
        answer.start(None if told else remaining(wrapper.file))
        return None if answer.bodyless else OpenFile(wrapper, self.body)

    def _is_small(self) -> bool:
        return self.answer.length is not None and self.answer.length <= BLOCK

    def _read_all(self, file: OpenFile) -> bytes:
        left: Any = self.answer.length
        data = b""
        while left and (block := file.read(left)):
            data += block[:left]
            left = self.answer.length - len(data)  # type: ignore[operator]
        self._check_end(left)
        return data

    def _check_end(self, left: int | None) -> None:
        if left:
            raise WSGIError(
                f"The file ends {left} bytes before its Content-Length of {self.answer.length}"
            )

    def _start_stream(self, result: Any) -> AsyncBody | None:
        """The body, if the event loop's side is to send it; None if it is to be iterated here."""
        answer = self.answer
        if answer.started or not isinstance(result, AsyncBody):
            return None
        answer.start()
        return None if answer.bodyless else result

    def _iterate(self, result: Any) -> None:
        if self.answer.started:
            if self.answer.bodyless:
                return
        # The only chunk need not be announced, the end follows at once; and its size is known
        # (PEP 3333, "Handling the Content-Length Header").
        elif hasattr(result, "__len__") and len(result) == 1:
            self._single = b""
        for chunk in result:
            self._put(chunk)
            if self.answer.bodyless:
                return
        self.answer.end(None if self._single is None else 0)

    def _put(self, chunk: bytes) -> None:
        answer = self.answer
        if not answer.checked(chunk):
            return
        if not answer.started:
            answer.start(None if self._single is None else len(chunk))
        if answer.bodyless:
            return
        chunk = answer.measured(chunk)
        if self._single is not None:
            self._single += chunk
        else:
            self.handover.put(chunk)

    # On the event loop.

    async def send_to(self, receive: Receive, send: Send, paced: Callable[[Send], Send]) -> None:
        """Send the response; ``paced(send)`` is what sends one of several chunks.

        Returns when it was sent or the client has left. Raises what the application raised; then
        :attr:`sent` tells whether a part of it went out.
        """
        try:
            has_chunks = await self.handover.begin()
        except BaseException:
            await self._clean_up(None)
            raise
        if has_chunks:
            with self.ahead:
                return await self._send_chunks(receive, paced(send))
        body = self.handover.whole
        if body is None:
            if self.handover.stream is not None:
                return await self._stream(self.handover.stream, receive, paced(send))
            return await self._send_chunks(receive, paced(send))
        await send(self._start())
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _start(self) -> dict[str, Any]:
        self.sent = True
        return self._head()

    def _head(self) -> dict[str, Any]:
        # Nothing comes without one.
        head: Any = self.answer.head
        status, headers = head
        return {"type": "http.response.start", "status": status, "headers": headers}

    async def _stream(self, stream: AsyncBody, receive: Receive, send: Send) -> None:
        streaming = Streaming(
            stream, self.answer, self.context, self.stopping, self.environ["asgi.scope"]
        )
        try:
            await streaming.send_to(receive, send, self._head())
        finally:
            self.sent = streaming.started
            self.error = streaming.error
            self._close_body()

    async def _send_chunks(self, receive: Receive, send: Send) -> None:
        handover = self.handover
        listener: asyncio.Task[None] | None = None
        try:
            data, last = handover.take() or await handover.wait()
            await send(self._start())
            if not last or handover.file is not None:
                listener = self._loop.create_task(self._listen_for_disconnect(receive))
            while not last:
                await send({"type": "http.response.body", "body": data, "more_body": True})
                data, last = handover.take() or await handover.wait()
            if handover.file is not None:
                await self._send_file(handover.file, send)
            elif not handover.gone:
                await send({"type": "http.response.body", "body": data, "more_body": False})
        finally:
            await self._clean_up(listener)

    async def _clean_up(self, listener: "asyncio.Task[None] | None") -> None:
        """Let the thread end, too, and nothing go unheard that it has raised; close its file."""
        handover = self.handover
        if not handover.is_over():
            handover.leave()
            self._log_unheard()
        try:
            if listener is not None:
                listener.cancel()
            if handover.file is not None:
                await self.pool.run(handover.file.close)
            if handover.stream is not None:
                self._close_body()
                try:
                    await handover.stream.aclose()
                except Exception:
                    log.exception("aclose() of the response iterable failed")
            if listener is not None:
                await stubborn.ended(listener)
        except asyncio.CancelledError:
            # It takes the place of what was raised.
            self._log_unheard()
            raise
        handover.hear()

    def _close_body(self) -> None:
        # It may be a file on a disk.
        if isinstance(self.body, io.BytesIO):
            self.body.close()
        else:
            self._loop.run_in_executor(None, self.body.close)

    async def _listen_for_disconnect(self, receive: Receive) -> None:
        await until_left(receive)
        self.handover.leave()

    async def _send_file(self, file: OpenFile, send: Send) -> None:
        left = self.answer.length
        turns = Turns()
        while not self.handover.gone:
            data = b""
            if left != 0:
                size = BLOCK if left is None else min(BLOCK, left)
                cached = file.read_cached(size)
                if cached is None:
                    data = await self.pool.run(self._read, file, size)
                else:
                    data = cached
                    if turns.missed(monotonic()):
                        await asyncio.sleep(0)
            if left is not None:
                if not data:
                    self._check_end(left)
                data = data[:left]
                left -= len(data)
            more = bool(data) and left != 0
            await send({"type": "http.response.body", "body": data, "more_body": more})
            if not more:
                return

    def _read(self, file: OpenFile, size: int) -> bytes:
        try:
            return file.read(size)
        except BaseException as error:
            self.error = carried(error)
            raise

    # On either side.

    def _log_unheard(self) -> None:
        error = self.handover.unheard()
        if error is not None and not isinstance(error, ClientDisconnected):
            report = partial(
                log.error, "A request that nobody waits for any more failed", exc_info=error
            )
            # A copy: the thread may be inside it.
            self.context.copy().run(report)
