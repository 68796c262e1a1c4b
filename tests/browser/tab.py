"""One tab of a browser, over Chromium's own protocol."""

import asyncio


class Tab:
    """Hides, shows and asks one tab; `socket` is its debugger's, `http` speaks to the browser at `address`."""

    def __init__(self, http, address, name, socket):
        self.http, self.address, self.name, self.socket, self.calls = http, address, name, socket, 0

    async def hide(self):
        async with self.http.put(f"{self.address}/new?about:blank") as reply:
            assert reply.status == 200

    async def show(self):
        async with self.http.get(f"{self.address}/activate/{self.name}") as reply:
            assert reply.status == 200

    async def evaluate(self, expression):
        """The value of a JavaScript expression. Raises AssertionError with what the protocol or the script said."""
        return value_of(await self._ask(expression), expression)

    async def until(self, expression, seconds=60):
        """Waits until an expression is true, also through a page that loads, whose context is replaced."""
        async with asyncio.timeout(seconds):
            while not await self._is_true(expression):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def _is_true(self, expression):
        message = await self._ask(expression)
        return not is_between_pages(message) and value_of(message, expression)

    async def _ask(self, expression):
        self.calls += 1
        parameters = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        await self.socket.send_json({"id": self.calls, "method": "Runtime.evaluate", "params": parameters})
        while (message := await self.socket.receive_json()).get("id") != self.calls:
            pass  # an event
        return message


BETWEEN_PAGES = (
    "context was destroyed",
    "Cannot find context",
    "Cannot find default execution context",
    "navigated or closed",
)
"""what Chromium answers while one document gives way to the next"""


def is_between_pages(message):
    return any(words in message.get("error", {}).get("message", "") for words in BETWEEN_PAGES)


def value_of(message, expression):
    """The value in a reply to Runtime.evaluate. Raises AssertionError where it holds an error instead."""
    if "error" in message:
        raise AssertionError(f"{expression}: {message['error']['message']}")
    if "exceptionDetails" in (result := message["result"]):
        details = result["exceptionDetails"]
        said = details.get("exception", {}).get("description") or details["text"]
        raise AssertionError(f"{expression}: {said}")
    return result["result"].get("value")
