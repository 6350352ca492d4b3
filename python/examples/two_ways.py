"""Tries two ways to mend an instance at once, and keeps the one that resolves it."""

from __future__ import annotations

import asyncio
import logging

from imgforge_sandbox import ExecResult, Grade, ImgforgeError, Progress
from imgforge_sandbox.aio import AsyncClient, AsyncSession

INSTANCE = ("demo", "imgforge__abacus-1")
SIGNS = r"""sed -i '/def atom(self):/a\        if self.accept("-"):\n            return -self.atom()
' src/abacus/parser.py
sed -i '/def atom(self):/a\        if self.accept("+"):\n            return self.atom()
' src/abacus/parser.py
"""
WAYS = {"a note": "echo found it > note.txt", "both signs": SIGNS}


def told(progress: Progress) -> None:
    if progress.level >= logging.INFO:
        print(f"{progress.task}: {progress.text}")


async def try_one(session: AsyncSession, way: str) -> tuple[str, Grade]:
    async with session:
        result: ExecResult = await session.exec(way, timeout=60)
        if not result.ok:
            raise RuntimeError(result.stderr_text)
        return (await session.patch()).decode(), await session.grade(timeout=300)


async def main() -> None:
    async with AsyncClient(progress=told) as client:
        async with await client.start(instance=INSTANCE) as session:
            forks = await session.fork(len(WAYS))
        tried = await asyncio.gather(*map(try_one, forks, WAYS.values()))
        for name, (patch, grade) in zip(WAYS, tried):
            try:
                print(f"{name}: {len(patch)} characters, reward {grade.reward}")
            except ImgforgeError as error:
                print(f"{name}: {error}")
        for checkpoint in {fork.info.checkpoint for fork in forks if fork.info.checkpoint}:
            await client.remove_checkpoint(checkpoint)


if __name__ == "__main__":
    asyncio.run(main())
