"""In which context an error is logged."""

import contextvars

from pyramid_asgi_consumers.contexts import adopt, context_of, mark


def test_a_context_is_adopted_by_the_current_one():
    first, second, third = (contextvars.ContextVar(name) for name in ("first", "second", "third"))
    first.set("here")
    second.set("same")
    there = contextvars.copy_context()
    there.run(first.set, "there")
    there.run(third.set, "new")
    adopt(there)
    assert [first.get(), second.get(), third.get()] == ["there", "same", "new"]


def test_an_error_is_logged_in_the_context_that_it_is_marked_with():
    variable, error = contextvars.ContextVar("variable"), ValueError()
    variable.set("here")
    there = contextvars.copy_context()
    there.run(variable.set, "there")
    assert context_of(error).run(variable.get) == "here"
    mark(error, there)
    assert context_of(error).run(variable.get) == "there"
    # Also while its thread is inside.
    assert there.run(lambda: context_of(error).run(variable.get)) == "there"
