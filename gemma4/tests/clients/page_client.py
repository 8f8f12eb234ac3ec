"""Chromium drives the page: types, reads the stream, stops, asks again. Speaks Chromium's own debugging protocol."""

import base64
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request

from websockets.sync.client import connect

from common import ARGSORT, BASE, LINSPACE, THOUGHT, run

PICTURES = os.environ.get("GEMMA4_PICTURES")


class Page:
    """One tab of one browser."""

    def __init__(self, url):
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.browser = subprocess.Popen(
            [os.environ["CHROMIUM"], "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-extensions", "--remote-debugging-port=0", "--hide-scrollbars",
             f"--user-data-dir={self.home.name}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        port = None
        for _ in range(600):
            try:
                with open(os.path.join(self.home.name, "DevToolsActivePort")) as file:
                    port = int(file.readline())
                break
            except (FileNotFoundError, ValueError):
                time.sleep(0.05)
        assert port, "Chromium did not start"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
            (target, *_) = [t for t in json.load(reply) if t["type"] == "page"]
        self.stack = contextlib.ExitStack()
        self.socket = self.stack.enter_context(connect(target["webSocketDebuggerUrl"], max_size=None, origin=None))
        self.numbers = itertools.count(1)
        self.complaints, self.requests = [], []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")
        self.size(900, 900)
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && !!document.getElementById('box')")

    def size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def hear(self, message):
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"] + " " + params["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def call(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=30))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.hear(message)

    def eval(self, text):
        result = self.call("Runtime.evaluate", expression=text, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, text, seconds=30):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.eval(f"(() => {{ try {{ return {text} }} catch {{ return null }} }})()"):
                return found
            time.sleep(0.02)
        raise AssertionError(f"never came: {text}\n{self.eval('document.body.innerText')}")

    def type(self, text):
        self.call("Input.insertText", text=text)

    def key(self, name, code=0, modifiers=0, text=None):
        down = dict(type="keyDown", key=name, code=name, windowsVirtualKeyCode=code, modifiers=modifiers)
        if text:
            down["text"] = text
        self.call("Input.dispatchKeyEvent", **down)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=code, modifiers=modifiers)

    def enter(self, modifiers=0):
        self.key("Enter", 13, modifiers, "\r")

    def picture(self, name):
        if PICTURES:
            data = self.call("Page.captureScreenshot", format="png")["data"]
            with open(os.path.join(PICTURES, name + ".png"), "wb") as file:
                file.write(base64.b64decode(data))

    def close(self):
        self.stack.close()
        self.browser.terminate()
        self.browser.wait(10)


page = Page(BASE + "/")
IDLE = "document.getElementById('stop').classList.contains('hidden')"


def said(nth):
    return f"document.querySelectorAll('.turn')[{nth}].querySelector('.said').innerText"


def test_1_the_page_knows_the_model_and_awaits_typing():
    page.until("document.getElementById('model').textContent.length > 0")
    page.picture("empty")
    assert page.eval("document.activeElement.id") == "box"
    assert page.eval("document.title").endswith("gemma4")


def test_2_enter_sends_and_the_answer_streams():
    page.type("What does numpy.linspace do?")
    page.enter()
    page.until(f"{IDLE} && document.querySelectorAll('.turn').length === 2 && {said(1)} === {json.dumps(LINSPACE)}")
    page.until("document.querySelector('.turn.model .meta').innerText.includes('tok/s')")
    assert "reused" in page.eval("document.querySelector('.turn.model .meta').innerText")
    assert page.eval("document.activeElement.id") == "box", "the next question can be typed at once"


def test_3_shift_enter_breaks_the_line_and_a_second_turn_follows():
    # Answers to what the model does not know are drawn, and some end with the context only.
    page.eval("""window.whole = window.fetch; window.fetch = (url, options) =>
        window.whole(url, { ...options, body: JSON.stringify({ ...JSON.parse(options.body), max_tokens: 500 }) });""")
    page.type("What does")
    page.key("Enter", 13, 8, "\r")
    page.type("numpy.sum do?")
    assert page.eval("document.getElementById('box').value") == "What does\nnumpy.sum do?"
    assert page.eval("document.querySelectorAll('.turn').length") == 2, "nothing was sent"
    page.enter()
    page.until(f"document.querySelectorAll('.turn').length === 4 && {IDLE} && {said(3)}.length > 5")
    assert page.eval(said(2)) == "What does\nnumpy.sum do?"


def test_4_edit_takes_a_turn_back_and_sends_it_again():
    page.eval("document.querySelectorAll('.turn.user button')[1].click()")
    assert page.eval("document.querySelectorAll('.turn').length") == 2
    assert page.eval("document.getElementById('box').value") == "What does\nnumpy.sum do?"
    page.enter()
    page.until(f"document.querySelectorAll('.turn').length === 4 && {IDLE} && {said(3)}.length > 5")


def test_5_thoughts_are_folded():
    page.eval("document.getElementById('new').click()")
    assert page.eval("document.querySelectorAll('.turn').length") == 0
    page.eval("document.getElementById('think').click()")
    page.type("What does numpy.argsort do?")
    page.enter()
    page.until(f"document.querySelectorAll('.turn').length === 2 && {IDLE} && {said(1)} === {json.dumps(ARGSORT)}")
    assert page.eval("document.querySelector('.turn.model details').open") is False
    assert page.eval("document.querySelector('.turn.model details .inside').textContent").startswith(THOUGHT)
    page.eval("document.getElementById('think').click()")
    page.eval("document.getElementById('box').value = 'What does numpy.linspace do?'")
    page.enter()
    page.until(f"document.querySelectorAll('.turn').length === 4 && {IDLE}")
    page.picture("light")
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.eval("document.querySelectorAll('details').forEach(d => d.open = true)")
    page.picture("dark")
    page.size(380, 720)
    assert page.eval("document.documentElement.scrollWidth <= 380"), "nothing is wider than a telephone"
    page.picture("narrow")
    page.size(900, 900)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])


def test_6_escape_stops():
    page.eval("document.getElementById('new').click()")
    # Without its ends the model talks until the context is full.
    page.eval("window.plain = window.fetch = window.whole")
    page.eval("fetch('/tokenize', {method: 'POST', body: JSON.stringify({content: '<eos><turn|><|tool_response>'})})"
              ".then(r => r.json()).then(r => { window.ENDS = Object.fromEntries(r.tokens.map(t => [t, -100])); })")
    page.eval("""window.fetch = (url, options) => { const body = JSON.parse(options.body); body.logit_bias = window.ENDS;
        return window.plain(url, { ...options, body: JSON.stringify(body) }); }""")
    page.type("What does numpy.linspace do?")
    page.enter()
    page.until(f"!{IDLE} && {said(1)}.length > 20")
    page.key("Escape", 27)
    page.until(IDLE)
    assert "Stopped" in page.eval("document.querySelectorAll('.turn')[1].innerText")
    page.eval("window.fetch = window.plain")


def test_7_errors_are_shown():
    page.eval("document.getElementById('new').click()")
    page.eval("document.getElementById('box').value = 'x '.repeat(20000)")
    page.enter()
    page.until("document.querySelector('.error')?.innerText.includes('context')")
    page.picture("error")
    # The browser's own note of the response 400 is no complaint of the page.
    page.complaints[:] = [c for c in page.complaints if "400" not in c]


def test_8_nothing_was_complained_about_and_nothing_came_from_elsewhere():
    assert page.complaints == [], page.complaints
    assert page.requests and all(url.startswith((BASE, "data:")) for url in page.requests), page.requests
    labels = page.eval("[...document.querySelectorAll('button, input, textarea')].filter(n => !(n.innerText || n.labels?.length || n.ariaLabel)).length")
    assert labels == 0, "everything that can be used has a name"
    page.close()


if __name__ == "__main__":
    run(sys.modules[__name__])
