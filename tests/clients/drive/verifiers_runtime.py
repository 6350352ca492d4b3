"""verifiers: its runtime in Docker runs commands, and reads and writes files."""

import asyncio
import os

from verifiers.v1.runtimes.docker import DockerConfig, DockerRuntime


async def use_runtime() -> None:
    runtime = DockerRuntime(DockerConfig(image=os.environ["CLIENTS_IMAGE"], workdir="/testbed"),
                            name="clients")
    await runtime.start()
    try:
        told = await runtime.run(["git", "status", "-sb"], {})
        assert told.exit_code == 0 and told.stdout.startswith("## main"), told
        told = await runtime.run(["sh", "-c", "echo $A; exit 3"], {"A": "b"})
        assert told.exit_code == 3 and told.stdout == "b\n", told
        await runtime.write("/testbed/x.bin", bytes(range(256)))
        assert await runtime.read("/testbed/x.bin") == bytes(range(256))
    finally:
        await runtime.stop()


asyncio.run(use_runtime())
print("result: commands run, files go in and out")
