"""The error that is the user's to mend."""

from __future__ import annotations

from pydantic import ValidationError

HIDDEN = "hidden"
"""type of a pydantic error whose input may hold a secret: `explain` does not show it"""


def printable(text: object) -> str:
    """`text` on one line: what cannot be printed is escaped, so that no file of a stranger moves the cursor."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


class UsageError(ValueError):
    """Wrong usage or bad input. Its message is one sentence: what was expected and what was found."""


def explain(error: ValidationError) -> str:
    """The first fault of a rejected configuration: which setting, what was expected, what was found.

    Of settings that do not go together only the sentence: all that was given may hold a secret.
    """
    fault = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    found = repr(fault["input"])
    expected = fault["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    expected = expected.replace("Path does not point to a", "expected an existing")
    if fault["type"] == HIDDEN or (fault["type"] == "value_error" and isinstance(fault["input"], dict)):
        return f"{name}: {expected}" if name else expected
    return f"{name}: {expected}, found {found if len(found) < 80 else found[:76] + '...'}"
