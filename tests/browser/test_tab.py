"""What the tests' own view of a tab says of errors, and what it waits through."""

import re

import pytest

from tests.browser.tab import Tab


class Debugger:
    """Stands for Chromium's debugger: gives its replies in turn, each after an event."""

    def __init__(self, *replies):
        self.replies, self.waiting = list(replies), []

    async def send_json(self, message):
        self.waiting = [{"method": "Runtime.consoleAPICalled"}, {"id": message["id"], **self.replies.pop(0)}]

    async def receive_json(self):
        return self.waiting.pop(0)


def tab(*replies):
    return Tab(None, "", "", Debugger(*replies))


def value(value):
    return {"result": {"result": {"type": "boolean", "value": value}}}


GONE = {"error": {"code": -32000, "message": "Execution context was destroyed."}}
NOT_THERE_YET = {"error": {"code": -32000, "message": "Cannot find default execution context"}}
THROWN = {
    "result": {
        "result": {"type": "object", "subtype": "error"},
        "exceptionDetails": {
            "text": "Uncaught",
            "exception": {"description": "ReferenceError: nothing is not defined\n    at <anonymous>:1:1"},
        },
    }
}


async def test_a_page_that_loads_is_waited_through():
    """A KeyError, when Chromium answered while one document gave way to the next."""
    await tab(GONE, NOT_THERE_YET, value(False), value(True)).until("ready", seconds=5)


@pytest.mark.parametrize(
    "reply, told",
    [(THROWN, "nothing: ReferenceError: nothing is not defined"), (GONE, "nothing: Execution context was destroyed.")],
)
async def test_an_error_is_told_in_its_own_words(reply, told):
    with pytest.raises(AssertionError, match=re.escape(told)):
        await tab(reply).evaluate("nothing")


async def test_a_script_that_fails_is_not_waited_for():
    with pytest.raises(AssertionError, match="ReferenceError"):
        await tab(THROWN).until("nothing", seconds=5)
