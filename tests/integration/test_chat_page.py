"""The chat page in a real browser (Chromium, over its debugging protocol), before the real engine."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from codex_ray.config.common import Device
from codex_ray.config.fields import to_dict
from codex_ray.config.serve import Access, Engine, Serve
from codex_ray.serve.front import Front
from codex_ray.serve.keys import KeyFile
from codex_ray.serve.model_server import ModelServer
from codex_ray.serve.routes import build_app
from tests.unit.rollout.models import llama, train_small_tokenizer
from tests.unit.serve.conftest import Running

pytestmark = [pytest.mark.integration, pytest.mark.verify]
WAIT_SECONDS = 60.0


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._asked = socket, 0
        self.logged: list[str] = []

    async def ask(self, method: str, **parameters: Any) -> Any:
        self._asked += 1
        await self._socket.send_json({"id": self._asked, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive(WAIT_SECONDS)).data)
            told = message.get("params", {})
            bad = told.get("entry", {}).get("level") in ("error", "warning")
            if bad or message.get("method") == "Runtime.exceptionThrown":
                self.logged.append(json.dumps(told))
            if message.get("id") == self._asked:
                return message["result"]

    async def run(self, script: str) -> Any:
        found = await self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str) -> None:
        deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
        while not await self.run(f"typeof at == 'function' && ({script})"):  # once the page is there
            assert asyncio.get_running_loop().time() < deadline, (script, self.logged)
            await asyncio.sleep(0.05)

    async def type(self, text: str) -> None:
        """Type into what has the focus, and press Enter."""
        await self.ask("Input.insertText", text=text)
        await self.press("Enter", 13, "\r")

    async def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            await self.ask(
                "Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text
            )

    async def picture(self, file: Path) -> None:
        shot = await self.ask("Page.captureScreenshot")
        file.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def opened(url: str, profile: Path, size: str = "1000,800") -> AsyncIterator[Page]:
    """Chromium with a tab at an address."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "install Chromium: apt-get install chromium"
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={size}"]
    command += [f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        for _ in range(600):
            if port.exists() and port.read_text().count("\n"):
                break
            await asyncio.sleep(0.1)
        base = f"http://127.0.0.1:{port.read_text().splitlines()[0]}"
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{base}/json") as answer:
                tabs = [one for one in await answer.json() if one["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.ask("Log.enable")
                await page.ask("Runtime.enable")
                yield page
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("served")
    tokenizer = train_small_tokenizer(folder / "tokenizer")
    llama(tokenizer.vocabulary_size).save_pretrained(folder / "tiny")
    tokenizer.save(folder / "tiny")
    settings = Serve(
        model=str(folder / "tiny"),
        name="tiny",
        compute=Device(device="cpu", dtype="float32"),
        engine=Engine(slots=4, threads=1),
        access=Access(keys=str(folder / "keys.json")),
    )
    server = ModelServer(to_dict(settings))
    yield settings, server
    server.close(0)


SAID = "document.querySelectorAll('article.assistant').length == {} && at('stop').disabled"


def test_a_chat_by_keyboard(serving: Any, tmp_path: Path) -> None:
    settings, server = serving
    running = Running(build_app(Front(settings, {"tiny": server})))

    async def chat() -> None:
        async with opened(running.url, tmp_path / "profile") as page:
            await page.until("at('model').value == 'tiny'")
            await page.run("at('max_tokens').value = 12; at('text').focus()")
            await page.type("hi <b>there</b>")
            await page.until(SAID.format(1))
            assert (
                await page.run("document.querySelector('article.user pre').textContent") == "hi <b>there</b>"
            )
            figures = await page.run("document.querySelector('article.assistant .tools span').textContent")
            assert "first text after" in figures and "tokens/s" in figures
            await page.picture(tmp_path / "light.png")
            before = await page.run("turns[1].content")
            await page.run("document.querySelectorAll('article.assistant button')[1].click()")
            await page.until(SAID.format(1) + f" && turns[1].content != {json.dumps(before)}")
            await page.run("at('theme').click()")
            await page.picture(tmp_path / "dark.png")
            await page.run("at('fresh').click()")
            assert await page.run("document.querySelectorAll('article').length") == 0
            assert not page.logged, page.logged

    try:
        asyncio.run(chat())
        assert (tmp_path / "light.png").read_bytes() != (tmp_path / "dark.png").read_bytes()
    finally:
        running.stop()


def test_what_is_preferred_is_kept_with_consent_alone(serving: Any, tmp_path: Path) -> None:
    settings, server = serving
    file = tmp_path / "preferences.jsonl"
    running = Running(build_app(Front(replace(settings, feedback=str(file)), {"tiny": server})))
    last = "turns[turns.length - 1]"

    async def chat() -> None:
        async with opened(running.url, tmp_path / "profile") as page:
            await page.until("at('model').value == 'tiny' && !at('consenting').hidden")
            await page.run("at('max_tokens').value = 12; at('text').focus()")
            await page.type("hi")
            await page.until(SAID.format(1))
            first = await page.run(f"{last}.content")
            again = "[...document.querySelectorAll('button')].find(one => one.textContent == {!r})"
            await page.run(again.format("Again") + ".click()")
            await page.until(SAID.format(1) + f" && {last}.content != {json.dumps(first)}")
            await page.run("document.querySelector('[data-rating=\"1\"]').click()")
            await asyncio.sleep(0.5)
            assert file.read_text() == ""  # without consent
            await page.run("at('settings').open = true; at('consent').click()")
            for _ in range(2):  # off and on
                await page.run("document.querySelector('[data-rating=\"1\"]').click()")
            await page.until("document.querySelector('.tools span').textContent.includes('kept')")
            second = await page.run(f"{last}.content")
            await page.run(again.format("Edit") + ".click()")
            await page.run("document.querySelector('article textarea').value = 'hello'")
            await page.run(again.format("Save") + ".click()")
            await page.until("turns[0].told.size == 2")
            await page.until("document.querySelector('article.assistant pre').textContent == 'hello'")
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            told = [(one["how"], one["chosen"], one["rejected"]) for one in lines]
            assert told == [("regenerated", second, first), ("edited", "hello", second)]
            assert lines[0]["messages"] == [{"role": "user", "content": "hi"}]
            await page.picture(tmp_path / "rated.png")
            assert not page.logged, page.logged

    try:
        asyncio.run(chat())
    finally:
        running.stop()


def test_stop_keys_and_phones(serving: Any, tmp_path: Path) -> None:
    settings, server = serving
    file = KeyFile(settings.access.keys)
    _, key = file.add("alice")
    running = Running(build_app(Front(settings, {"tiny": server})))

    async def chat() -> None:
        async with opened(running.url, tmp_path / "profile", "390,800") as page:
            await page.until("document.querySelector('.error')?.textContent.includes('API key')")
            await page.run(f"at('key').value = {key!r}; at('key').dispatchEvent(new Event('change'))")
            await page.until("at('model').value == 'tiny'")
            assert await page.run("document.documentElement.scrollWidth <= innerWidth")
            slow = hold(server)
            await page.run("at('settings').open = false; at('text').focus()")
            await page.type("hi")
            await page.until("!at('stop').disabled")
            await page.press("Escape", 27)
            await page.until("at('stop').disabled")
            slow()
            assert await page.run("document.querySelectorAll('article.assistant').length") == 0
            await page.run("at('max_tokens').value = 6; document.querySelector('.error button').click()")
            await page.until(SAID.format(1))
            told = await page.run("document.querySelector('article.assistant .tools span').textContent")
            assert "cut off at the longest answer" in told
            assert await page.run("document.querySelectorAll('.error button').length") == 0
            await page.picture(tmp_path / "phone.png")
            # A new chat in the middle of an answer keeps nothing of it.
            slow = hold(server)
            await page.type("and then")
            await page.until("!at('stop').disabled")
            await page.run("at('fresh').click()")
            await page.until("at('stop').disabled")
            slow()
            assert await page.run("turns.length + document.querySelectorAll('article, .error').length") == 0

    try:
        asyncio.run(chat())
    finally:
        running.stop()
        file.revoke("alice")


def hold(server: ModelServer) -> Callable[[], None]:
    """Keep the engine from answering until the returned function is called."""
    import threading

    go = threading.Event()
    server._engine.call(lambda: go.wait(WAIT_SECONDS))
    return go.set
