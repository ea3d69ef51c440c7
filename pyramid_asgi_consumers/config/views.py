"""The view deriver that lets view callables be ``async def``."""

import asyncio
import sys

from pyramid_asgi_consumers.async_views import LOOP_ARGUMENTS, run_on_loop, run_on_own_loop


def async_view(view, info):
    """Await what ``view`` returns, where that can be awaited.

    Functions, methods, classes and other callables are told by what they return, so that whatever
    Pyramid can call may be async. Under ASGI it is awaited on the server's event loop while the
    view's thread waits, elsewhere on a loop made for it.

    Raises RuntimeError on the thread of an event loop that runs, which would wait for itself, and
    within a thread-local transaction, which would not be there.
    """

    def derived(context, request):
        result = view(context, request)
        if not hasattr(result, "__await__"):
            return result
        reason = _reason_to_refuse(request)
        if reason is not None:
            if hasattr(result, "close"):
                result.close()
            raise RuntimeError(f"The async view {info.original_view!r} {reason}")
        loop_arguments = request.environ.get(LOOP_ARGUMENTS)
        if loop_arguments is None:
            return run_on_own_loop(result)
        return run_on_loop(result, *loop_arguments)

    return derived


def _reason_to_refuse(request):
    if asyncio._get_running_loop() is not None:
        return (
            "was called on the thread of a running event loop, which cannot wait for it: await"
            " the work itself instead of making a subrequest"
        )
    transaction = sys.modules.get("transaction")
    if (
        transaction is not None
        and request.environ.get("tm.active")
        and request.environ.get("tm.manager") is transaction.manager
    ):
        return (
            "would not see the transaction, which belongs to the thread: set"
            " tm.manager_hook = pyramid_tm.explicit_manager"
        )
    return None


def includeme(config):
    config.add_view_deriver(async_view, under="rendered_view", over="mapped_view")
