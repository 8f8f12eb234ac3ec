"""Many clients at once: no error but 429, the answers that each request gets alone before and after, nothing left behind.

All of it takes `GEMMA4_SECONDS`: the requests alone, `GEMMA4_CLIENTS` at once, and the requests alone again. `AFTER`
seconds more are for `GEMMA4_REQUESTS` short ones, or as many as there is time for, after which memory and threads must be
what they were. Prints one line with the verdict, rates and latencies.
"""

import json
import os
import re
import socket
import statistics
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter

from common import BASE, WEATHER

SECONDS = float(os.environ.get("GEMMA4_SECONDS", "6"))
CLIENTS = int(os.environ.get("GEMMA4_CLIENTS", "32"))
REQUESTS = int(os.environ.get("GEMMA4_REQUESTS", "1000"))
AFTER = 25.0
NAMES = ["numpy.linspace", "numpy.argsort", "numpy.sum", "numpy.cumsum", "scipy.linalg.solve", "torch.relu", "os.path.join", "json.loads"]


def requests():
    """Bodies that differ in everything that the server treats differently."""
    bodies = []
    for at, name in enumerate(NAMES):
        body = {"messages": [{"role": "user", "content": f"What does {name} do?"}], "max_tokens": 24, "seed": at}
        body["temperature"] = 0 if at % 2 else 0.8
        if at % 4 == 1:
            body["chat_template_kwargs"] = {"enable_thinking": True}
        if at % 4 == 2:
            body["tools"] = [{"type": "function", "function": WEATHER}]
        if at % 4 == 3:
            body["messages"].insert(0, {"role": "system", "content": "You know Python. " * 24})
        bodies.append(body)
    return bodies


def post(body):
    request = urllib.request.Request(
        BASE + "/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    return urllib.request.urlopen(request, timeout=120)


def ask(body):
    """Text, thoughts and calls of a streamed answer, its tokens, and the time to the first of them."""
    start, first, text, tokens = time.monotonic(), None, "", 0
    with post({**body, "stream": True, "stream_options": {"include_usage": True}}) as reply:
        for line in reply:
            if not line.startswith(b"data: {"):
                continue
            data = json.loads(line[6:])
            assert "error" not in data, data
            for choice in data["choices"]:
                delta = choice["delta"]
                more = (delta.get("reasoning_content") or "") + (delta.get("content") or "")
                more += "".join(call["function"]["arguments"] for call in delta.get("tool_calls", []))
                if more and first is None:
                    first = time.monotonic() - start
                text += more
            if data.get("usage"):
                tokens = data["usage"]["completion_tokens"]
    return text, tokens, first


def metrics():
    with urllib.request.urlopen(BASE + "/metrics") as reply:
        return dict(re.findall(r"^(\S+) (\S+)$", reply.read().decode(), re.M))


def vanish(body):
    """A client that leaves in the middle of an answer."""
    at = urllib.parse.urlsplit(BASE)
    with socket.create_connection((at.hostname, at.port)) as connection:
        text = json.dumps({**body, "stream": True, "max_tokens": 500}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {at.netloc}\r\ncontent-length: {len(text)}\r\n\r\n"
        connection.sendall(head.encode() + text)
        connection.recv(200)


def idle():
    """Waits until nothing runs; the state then."""
    for _ in range(200):
        state = metrics()
        if state["gemma4_running"] == "0" and state["gemma4_queued"] == "0":
            return state
        time.sleep(0.05)
    raise AssertionError(f"still busy: {state}")


def main():
    start = time.monotonic()
    end = start + SECONDS
    bodies = requests()
    alone = [ask(body) for body in bodies]
    lone = time.monotonic() - start
    # A first round fills the cache with what is kept of each; from then on nothing may grow.
    found = Found()
    crowd(bodies, alone, found, time.monotonic() + (end - time.monotonic()) / 5)
    before = idle()
    # What is asked last must be answered too, and then the requests alone take as long as before.
    crowded = end - min(lone + found.slowest, SECONDS / 3)
    second = time.monotonic()
    last = crowd(bodies, alone, Found(), crowded)
    seconds = time.monotonic() - second
    after = idle()
    again = Found()
    for at, body in enumerate(bodies):
        again.compare(body, ask(body), alone[at])
    report(found + last + again, again, time.monotonic() - start)
    rates(last, seconds)
    used = [[float(state[f'gemma4_kv_pages{{layers="{kind}",state="used"}}']) for kind in ("global", "local")] for state in (before, after)]
    print(f"load: pages in use before {used[0]}, after {used[1]}; kept places {before['gemma4_kept_places']}, {after['gemma4_kept_places']}")
    assert after["gemma4_requests_active"] == "1", "only this question is open: " + after["gemma4_requests_active"]
    assert after["gemma4_sequences"] == before["gemma4_sequences"] == "0", "a sequence was left open"
    # Kept places come and go; a page of each is what they differ by.
    more = max(0, int(after["gemma4_kept_places"]) - int(before["gemma4_kept_places"]))
    assert all(b <= a + more + 4 for a, b in zip(*used)), "pages were lost"
    flat(bodies, max(end + AFTER, time.monotonic() + 5))
    print(f"load: ok, {time.monotonic() - start:.1f} s in all")


def flat(bodies, end):
    """Memory, threads and files after many short requests are what they were before."""
    failures = []
    # A call that is cut off at its first token is an error, as it should be.
    plain = [body for body in bodies if "tools" not in body]

    def short(count, end):
        """As many requests as there is time for; how many, and the state behind them."""
        done = []

        def client(number):
            try:
                for turn in range(number, count, 8):
                    if time.monotonic() >= end:
                        break
                    with post({**plain[turn % len(plain)], "max_tokens": 1}) as reply:
                        json.load(reply)
                    done.append(turn)
            except Exception as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(done), idle()

    names = ["process_resident_memory_bytes", "process_threads", "process_open_fds"]
    now = time.monotonic()
    _, before = short(REQUESTS // 10, now + (end - now) / 5)
    count, after = short(REQUESTS, end)
    assert not failures, failures[:5]
    assert count, "there was no time for a single short request"
    if names[0] not in before:
        return print("load: this system does not tell memory and threads")
    found = [(float(before[name]), float(after[name])) for name in names]
    print(f"load: {count} requests, " + ", ".join(f"{name} {a:.0f} -> {b:.0f}" for name, (a, b) in zip(names, found)))
    (memory, later), *others = found
    assert later < memory + (16 << 20), "memory grows"
    assert all(b <= a + 8 for a, b in others), "threads or files are left behind"


class Found:
    """What clients got."""

    def __init__(self):
        self.answers, self.statuses, self.left, self.failures = [], Counter(), 0, []
        self.equal, self.slowest = 0, 0.0

    def __add__(self, other):
        both = Found()
        both.answers = self.answers + other.answers
        both.statuses = self.statuses + other.statuses
        both.left = self.left + other.left
        both.failures = self.failures + other.failures
        both.equal = self.equal + other.equal
        return both

    def compare(self, body, answer, alone):
        self.statuses[200] += 1
        self.answers.append(answer)
        if answer[0] == alone[0]:
            self.equal += 1
        else:
            self.failures.append(f"{body['messages'][-1]}: {answer[0]!r} is not {alone[0]!r}")


def crowd(bodies, alone, found, end):
    """Lets all clients ask until `end`, and each at least once; adds what they got to `found`."""
    lock = threading.Lock()
    end = max(end, time.monotonic() + SECONDS / 4)

    def client(number):
        turn = number
        while time.monotonic() < end:
            turn += 1
            at = turn % len(bodies)
            try:
                if turn % 37 == 0:
                    vanish(bodies[at])
                    with lock:
                        found.left += 1
                    continue
                asked = time.monotonic()
                answer = ask(bodies[at])
                with lock:
                    found.slowest = max(found.slowest, time.monotonic() - asked)
                    found.compare(bodies[at], answer, alone[at])
            except urllib.error.HTTPError as error:
                with lock:
                    found.statuses[error.code] += 1
                    if error.code != 429 or not error.headers["retry-after"]:
                        found.failures.append(f"{error}: {error.read()[:200]}")
                time.sleep(0.2)
            except Exception as error:
                with lock:
                    found.failures.append(repr(error))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def report(found, again, seconds):
    """Prints the verdict; fails if anything but 429 went wrong, or a text differs."""
    statuses = ", ".join(f"{count} of {status}" for status, count in sorted(found.statuses.items()))
    print(f"load: {len(found.answers)} answers to {CLIENTS} clients in {seconds:.1f} s; statuses: {statuses}; {found.left} left early; "
          f"equal texts {found.equal} of {len(found.answers)}, of those alone at the end {again.equal} of {len(again.answers)}")
    assert not found.failures, found.failures[:5]
    assert len(found.answers) >= CLIENTS / 2, "hardly anything was answered"


def rates(found, seconds):
    """Prints rates and latencies."""
    firsts = sorted(first for _, _, first in found.answers if first is not None)
    tokens = sum(count for _, count, _ in found.answers)
    p99 = firsts[min(len(firsts) - 1, int(len(firsts) * 0.99))] if firsts else 0
    print(f"load: {seconds:.1f} s: {len(found.answers) / seconds:.1f} requests/s, {tokens / seconds:.0f} tokens/s, "
          f"first token p50 {statistics.median(firsts or [0]) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms")


if __name__ == "__main__":
    main()
    sys.exit(0)
