"""Sessions in pods, by the Python client: started by `tests/kubernetes/sessions.rs`."""

import asyncio
import sys

from imgforge_sandbox import Client, NoSuchSession, Unsupported
from imgforge_sandbox.aio import AsyncClient

OPTIONS = ["--cache-registry", sys.argv[1], "--engine", "embedded"]
INSTANCE = ("demo", "imgforge__abacus-1")


def sync() -> None:
    with Client(backend="kubernetes", state_dir=sys.argv[2], options=OPTIONS) as client:
        assert client.engine == "kubernetes", client.engine
        session = client.start(instance=INSTANCE)
        assert session.engine == "kubernetes", session.engine
        result = session.exec("pwd; echo e >&2; exit 3")
        assert (result.code, result.stdout, result.stderr) == (3, b"/testbed\n", b"e\n"), result
        session.write("/tmp/f", b"x" * 100_000)
        assert session.read("/tmp/f") == b"x" * 100_000
        with session.shell() as shell:
            shell.run("cd /tmp; X=1")
            assert shell.run("pwd; echo $X").output == b"/tmp\n1\n"
            # Whatever the words are that its answers end with, none of them is held back.
            for number in range(200):
                assert shell.run(f"echo {number}").output == f"{number}\n".encode()
        for cannot in (session.checkpoint, session.stats):
            try:
                cannot()
            except Unsupported as error:
                assert "--runner local" in str(error) + str(error.hint), error
            else:
                raise AssertionError(cannot)
        session.stop()
        try:
            session.exec("true")
        except NoSuchSession:
            pass
        else:
            raise AssertionError("a session that was stopped runs a command")


async def asynchronous() -> None:
    async with AsyncClient(
        backend="kubernetes", state_dir=sys.argv[2], options=OPTIONS
    ) as client:
        session = await client.start(instance=INSTANCE)
        both = await asyncio.gather(session.exec("echo 1"), session.exec("exit 2"))
        assert [result.code for result in both] == [0, 2], both
        # It ends with its client.


sync()
asyncio.run(asynchronous())
print("done")
