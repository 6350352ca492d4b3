"""What tests name. It is no `conftest`: of these there may be several."""

from __future__ import annotations

from imgforge_sandbox import Instance

INSTANCE = Instance("demo", "imgforge__abacus-1")
"""An instance of the dataset that is in the program."""

HELLO = """
    import json, os, sys, time

    def send(**message):
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\\n")
        sys.stdout.flush()

    def requests():
        for line in sys.stdin:
            request = json.loads(line)
            if request["method"] == "hello":
                result = {"protocol": 1, "version": "1.2.3", "engine": "none", "features": ["a"]}
                send(id=request["id"], result=result)
                continue
            yield request
"""
"""The beginning of a server that answers `hello`."""
