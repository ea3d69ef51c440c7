"""Carries contextvars from a worker thread to where its error is logged.

Who reports errors (Sentry) notes there what it has reported, so that it reports each once.
"""

import contextvars


def adopt(context: contextvars.Context) -> None:
    """Set the current context's variables to what they are in ``context``.

    For what was raised in a thread: what middleware there has noted of it (Sentry: that it was
    reported) holds for who logs it here.
    """
    for variable, value in context.items():
        if variable.get(adopt) is not value:
            variable.set(value)


def context_of(error: BaseException) -> contextvars.Context:
    """A context to log ``error`` in: that of :func:`mark`, or else a copy of the current one."""
    context = getattr(error, _CONTEXT, None)
    # The thread may be inside of that still.
    return contextvars.copy_context() if context is None else context.copy()


def mark(error: BaseException, context: contextvars.Context) -> None:
    """Have :func:`context_of` give ``context`` for ``error``, in whichever task it is logged."""
    # An error may refuse to be changed, as a frozen dataclass does.
    BaseException.__setattr__(error, _CONTEXT, context)


_CONTEXT = "_context_of_its_thread"
