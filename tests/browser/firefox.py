"""A real Firefox for the tests, driven over WebDriver BiDi (https://w3c.github.io/webdriver-bidi)."""

import asyncio
import itertools
import json
import re
from contextlib import asynccontextmanager

from aiohttp import ClientSession

PREFERENCES = {
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.peerconnection.ice.loopback": True,
    "media.autoplay.default": 0,
    "browser.shell.checkDefaultBrowser": False,
    "browser.aboutwelcome.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "app.update.disabledForTesting": True,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "remote.prefs.recommended": True,
}
LISTENS = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")


@asynccontextmanager
async def firefox(program, folder):
    """`async with firefox(program, folder) as page`: a `Page` of a browser whose profile is `folder`."""
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in PREFERENCES.items()]
    (folder / "user.js").write_text("".join(lines))
    command = [program, "--headless", "--no-remote", "--profile", str(folder), "--remote-debugging-port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            while not (found := LISTENS.search(await process.stderr.readline())):
                assert process.returncode is None, "Firefox ended"
        drain = asyncio.create_task(process.stderr.read())
        async with ClientSession() as http, http.ws_connect(f"{found[1].decode()}/session", max_msg_size=0) as ws:
            page = Page(ws)
            await page.begin()
            yield page
            await page.command("browser.close")
        await drain
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


class Page:
    """One tab. What goes wrong in its scripts is kept in `errors`."""

    def __init__(self, ws):
        self.ws, self.numbers, self.errors, self.replies = ws, itertools.count(1), [], {}
        self.reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self.ws:
            told = message.json()
            if told.get("method") == "log.entryAdded" and told["params"]["level"] == "error":
                self.errors.append(told["params"]["text"])
            elif "id" in told:
                self.replies.pop(told["id"]).set_result(told)

    async def command(self, method, **params):
        number = next(self.numbers)
        reply = self.replies[number] = asyncio.get_running_loop().create_future()
        await self.ws.send_json({"id": number, "method": method, "params": params})
        told = await reply
        assert told["type"] == "success", (method, told.get("message"))
        return told["result"]

    async def begin(self):
        await self.command("session.new", capabilities={})
        await self.command("session.subscribe", events=["log.entryAdded"])
        tree = await self.command("browsingContext.getTree")
        self.context = tree["contexts"][0]["context"]
        await self.command("browsingContext.setViewport", context=self.context, viewport={"width": 1280, "height": 900})

    async def goto(self, url):
        await self.command("browsingContext.navigate", context=self.context, url=url, wait="complete")

    async def evaluate(self, expression):
        """The value of an expression, which passes as JSON."""
        program = f"(async () => JSON.stringify(await ({expression})) ?? 'null')()"
        target = {"context": self.context}
        told = await self.command(
            "script.evaluate", expression=program, target=target, awaitPromise=True, userActivation=True
        )
        assert told["type"] == "success", told["exceptionDetails"]["text"]
        return json.loads(told["result"]["value"])

    async def until(self, expression, seconds=60):
        """Waits until the expression is true."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.evaluate(expression):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not within {seconds} s: {expression}") from None

    async def click(self, selector):
        """Moves the pointer over an element's middle and clicks, as a person does."""
        await self.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{ block: 'center' }})")
        box = await self.evaluate(f"document.querySelector({selector!r}).getBoundingClientRect()")
        x, y = round(box["x"] + box["width"] / 2), round(box["y"] + box["height"] / 2)
        moves = [
            {"type": "pointerMove", "x": x, "y": y},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        await self.perform({"type": "pointer", "id": "mouse", "actions": moves})

    async def press(self, key):
        keys = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        await self.perform({"type": "key", "id": "keyboard", "actions": keys})

    async def perform(self, source):
        await self.command("input.performActions", context=self.context, actions=[source])

    async def choose(self, selector, value):
        """Chooses in a list, a slider or a field, and says so to the page."""
        await self.evaluate(
            f"""(() => {{
                const element = document.querySelector({selector!r});
                element.value = {json.dumps(value)};
                element.dispatchEvent(new Event("input", {{ bubbles: true }}));
                element.dispatchEvent(new Event("change", {{ bubbles: true }}));
            }})()"""
        )
