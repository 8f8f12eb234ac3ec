"""What the tests of clients share: the server's address, and a plain runner that needs no test framework."""

import os
import sys
import time
import traceback

BASE = os.environ["GEMMA4_URL"]
KEY = os.environ.get("GEMMA4_KEY", "any")

WEATHER = {
    "name": "get_weather",
    "description": "Current weather of a city.",
    "parameters": {
        "type": "object",
        "required": ["city"],
        "properties": {"city": {"type": "string", "description": "Name of the city."}},
    },
}
LINSPACE = "Return evenly spaced numbers over a specified interval."
ARGSORT = "Returns the indices that would sort an array."
THOUGHT = "The user asks about numpy.argsort."
PERSON = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["color", "count"],
    "additionalProperties": False,
}


def run(module):
    """Runs every function whose name begins with `test_`, and exits with the number of failures."""
    tests = [(name, test) for name, test in vars(module).items() if name.startswith("test_") and callable(test)]
    assert tests, "no tests"
    failures = 0
    for name, test in tests:
        start = time.monotonic()
        try:
            test()
            print(f"ok {name} {time.monotonic() - start:.2f} s", flush=True)
        except Exception:
            failures += 1
            print(f"FAILED {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
    print(f"{len(tests) - failures} of {len(tests)} passed", flush=True)
    sys.exit(min(failures, 100))
