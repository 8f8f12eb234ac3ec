"""Many clients at once: no error but 429, the answers that each request gets alone, nothing left behind.

`GEMMA4_SECONDS` and `GEMMA4_CLIENTS` say how long and how many, `GEMMA4_REQUESTS` after how many requests memory and
threads must be what they were. Prints rates and latencies.
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

from common import BASE, WEATHER

SECONDS = float(os.environ.get("GEMMA4_SECONDS", "6"))
CLIENTS = int(os.environ.get("GEMMA4_CLIENTS", "32"))
REQUESTS = int(os.environ.get("GEMMA4_REQUESTS", "1000"))
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
    for _ in range(600):
        state = metrics()
        if state["gemma4_running"] == "0" and state["gemma4_queued"] == "0":
            return state
        time.sleep(0.05)
    raise AssertionError(f"still busy: {state}")


def main():
    bodies = requests()
    alone = [ask(body) for body in bodies]
    # A first round fills the cache with what is kept of each; from then on nothing may grow.
    crowd(bodies, alone, SECONDS / 4)
    before = idle()
    results, failures, busy, seconds = crowd(bodies, alone, SECONDS)
    after = idle()
    report(results, failures, busy, seconds)
    used = [[float(state[f'gemma4_kv_pages{{layers="{kind}",state="used"}}']) for kind in ("global", "local")] for state in (before, after)]
    print(f"load: pages in use before {used[0]}, after {used[1]}; kept places {before['gemma4_kept_places']}, {after['gemma4_kept_places']}")
    assert after["gemma4_requests_active"] == "1", "only this question is open: " + after["gemma4_requests_active"]
    assert after["gemma4_sequences"] == before["gemma4_sequences"] == "0", "a sequence was left open"
    # Kept places come and go; a page of each is what they differ by.
    assert all(b <= a + 4 for a, b in zip(*used)), "pages were lost"
    flat(bodies)
    print("load: ok")


def flat(bodies):
    """Memory, threads and files after many short requests are what they were before."""
    failures = []
    # A call that is cut off at its first token is an error, as it should be.
    plain = [body for body in bodies if "tools" not in body]

    def short(count):
        def client(number):
            try:
                for turn in range(number, count, 8):
                    with post({**plain[turn % len(plain)], "max_tokens": 1}) as reply:
                        json.load(reply)
            except Exception as error:
                failures.append(repr(error))

        threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return idle()

    names = ["process_resident_memory_bytes", "process_threads", "process_open_fds"]
    before, after = short(REQUESTS // 10), short(REQUESTS)
    assert not failures, failures[:5]
    if names[0] not in before:
        return print("load: this system does not tell memory and threads")
    found = [(float(before[name]), float(after[name])) for name in names]
    print(f"load: {REQUESTS} requests, " + ", ".join(f"{name} {a:.0f} -> {b:.0f}" for name, (a, b) in zip(names, found)))
    (memory, later), *others = found
    assert later < memory + (16 << 20), "memory grows"
    assert all(b <= a + 8 for a, b in others), "threads or files are left behind"


def crowd(bodies, alone, seconds):
    """Lets all clients ask for some time: answers, failures, how often the queue was full, and how long it took."""
    results, lock, end = [], threading.Lock(), time.monotonic() + seconds
    failures, busy = [], [0]

    def client(number):
        turn = number
        while time.monotonic() < end:
            turn += 1
            at = turn % len(bodies)
            try:
                if turn % 37 == 0:
                    vanish(bodies[at])
                    continue
                found = ask(bodies[at])
                with lock:
                    results.append(found)
                    if found[0] != alone[at][0]:
                        failures.append(f"{bodies[at]['messages'][-1]}: {found[0]!r} is not {alone[at][0]!r}")
            except urllib.error.HTTPError as error:
                if error.code == 429 and error.headers["retry-after"]:
                    busy[0] += 1
                    time.sleep(0.2)
                else:
                    failures.append(f"{error}: {error.read()[:200]}")
            except Exception as error:
                failures.append(repr(error))

    start = time.monotonic()
    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, failures, busy[0], time.monotonic() - start


def report(results, failures, busy, seconds):
    """Prints rates and latencies; fails if anything but 429 went wrong."""
    firsts = sorted(first for _, _, first in results if first is not None)
    tokens = sum(count for _, count, _ in results)
    p99 = firsts[min(len(firsts) - 1, int(len(firsts) * 0.99))] if firsts else 0
    print(f"load: {CLIENTS} clients, {seconds:.1f} s: {len(results)} answers, {len(results) / seconds:.1f} requests/s, "
          f"{tokens / seconds:.0f} tokens/s, first token p50 {statistics.median(firsts or [0]) * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, "
          f"{busy} refused with 429")
    assert not failures, failures[:5]
    assert len(results) >= CLIENTS / 2, "hardly anything was answered"


if __name__ == "__main__":
    main()
    sys.exit(0)
