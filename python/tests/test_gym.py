"""The environment of Gymnasium, on the real program, and its space."""

from __future__ import annotations

import pickle
import warnings
from typing import Any, Callable, Optional

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv
from shared import INSTANCE

from imgforge_sandbox import (
    Client,
    Grade,
    Instance,
    InvalidRequest,
    NoVerdict,
    Session,
    SessionEnded,
    gym_env,
)
from imgforge_sandbox.gym_env import ENV_ID, SweEnv
from imgforge_sandbox.gym_space import Utf8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", True),
        ("a\r\n\x1b[0m\0", True),
        ("漢字🙂", True),
        ("x" * 100, True),
        ("x" * 101, False),
        ("\ud800", False),
        (b"bytes", False),
        (3, False),
    ],
)
def test_what_is_in_the_space(text: Any, expected: bool) -> None:
    assert (text in Utf8(100)) is expected


def test_the_space_by_itself() -> None:
    space = Utf8(100, nul=False)
    assert "a\0" not in space
    space.seed(3)
    samples = [space.sample() for _ in range(50)]
    assert all(sample in space for sample in samples)
    assert len(set(samples)) == 50
    space.seed(3)
    assert [space.sample() for _ in range(50)] == samples
    assert space == Utf8(100, nul=False)
    assert space != Utf8(100)
    assert space != Utf8(99, nul=False)
    again = pickle.loads(pickle.dumps(space))
    assert again == space
    with pytest.raises(ValueError, match="masks"):
        space.sample(mask=1)


def made(instance: Instance = INSTANCE, **options: Any) -> SweEnv:
    return SweEnv(instance, **options)


def test_it_follows_the_interface_without_a_warning(binary: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(ENV_ID, instance=INSTANCE, render_mode="ansi").unwrapped
        check_env(env)
        env.close()
        env.close()


def test_an_episode(binary: str) -> None:
    env = made(render_mode="ansi", statement=lambda instance: f"mend {instance}")
    observation, info = env.reset(seed=1)
    assert "imgforge__abacus-1" in observation["output"]
    assert info == {"end": "exited", "dropped": 0, "steps": 0, "instance_id": INSTANCE.instance_id}
    observation, reward, terminated, truncated, info = env.step("pwd; echo x >&2; exit 3")
    assert observation["output"] == "/testbed\nx\n"
    assert observation["exit_code"] == 3
    assert observation in env.observation_space
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["steps"] == 1
    shown = env.render()
    assert shown is not None
    assert "$ pwd; echo x >&2; exit 3\n/testbed\nx\n[exited: 3]\n" in shown
    env.step("touch /testbed/left /tmp/left")
    env.reset()
    assert env.step("ls /testbed/left /tmp/left")[0]["exit_code"] != 0
    env.close()
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("true")
    # It can be used again.
    env.reset()
    assert env.step("true")[0]["exit_code"] == 0
    env.close()


def test_limits(binary: str) -> None:
    env = made(max_steps=2, step_timeout=1, max_output=100)
    env.reset()
    observation, _, _, truncated, info = env.step("seq 1000; sleep 100")
    assert (info["end"], int(observation["exit_code"])) == ("timed_out", 124)
    assert observation["output"].endswith("999\n1000\n")
    assert len(observation["output"]) == 100
    assert info["dropped"] > 0
    assert not truncated
    observation, reward, terminated, truncated, _ = env.step(r"printf '\377\376'; kill -9 $$")
    assert observation["output"] == "\N{REPLACEMENT CHARACTER}" * 2
    assert observation in env.observation_space
    assert int(observation["exit_code"]) == 137
    assert (reward, terminated, truncated) == (0.0, False, True)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("true")
    env.reset()
    for action in ("a\0b", "\ud800", "x" * ((1 << 16) + 1)):
        with pytest.raises(InvalidRequest):
            env.step(action)
    env.close()


def test_a_submission_is_graded(binary: str) -> None:
    env = made()
    env.reset()
    observation, reward, terminated, truncated, info = env.step("submit")
    # Nothing was changed: the tests of the instance fail.
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert info["resolved"] is False
    assert env.last_grade is not None
    assert env.last_grade.resolved is False
    assert observation in env.observation_space
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("submit")
    env.close()


def test_only_these_words_submit(binary: str) -> None:
    env = made(reward=lambda session: 0.5)
    env.reset()
    for action in ("finish_later", "echo submit", "submit now", "SUBMIT"):
        assert env.step(action)[2] is False
    assert env.step("finish")[1:4] == (0.5, True, False)
    env.close()


def test_where_nobody_knows_there_is_no_reward(
    binary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(self: Session, **options: Any) -> Grade:
        return Grade(None, "error", "the tests did not run", None)

    env = made()
    env.reset()
    monkeypatch.setattr(Session, "grade", unknown)
    with pytest.raises(NoVerdict, match="the tests did not run"):
        env.step("submit")
    env.close()


def test_a_session_that_dies_is_an_exception_and_reset_goes_on(binary: str) -> None:
    env = made()
    env.reset()
    assert env.session is not None
    env.session.stop()
    with pytest.raises(Exception, match="session") as caught:
        env.step("true")
    assert not isinstance(caught.value, AssertionError)
    env.reset()
    assert env.step("echo on")[0]["output"] == "on\n"
    # The server dies.
    client = env._client
    assert client is not None
    client.close()
    env.reset()
    assert env.step("echo on")[0]["output"] == "on\n"
    env.close()


def test_one_client_for_several(client: Client) -> None:
    envs = [made(client=client) for _ in range(2)]
    for env in envs:
        env.reset()
    assert envs[0].session is not None
    assert envs[1].session is not None
    assert envs[0].session.id != envs[1].session.id
    for env in envs:
        env.close()
    # It is the caller's.
    assert isinstance(client.sessions(), list)


def test_the_seed_chooses_the_instance(client: Client) -> None:
    others = [INSTANCE, Instance("demo", "imgforge__abacus-2")]
    env = SweEnv(instances=others, client=client)
    chosen = [env.reset(seed=seed)[1]["instance_id"] for seed in (1, 2, 3, 4, 5, 6)]
    assert set(chosen) == {one.instance_id for one in others}
    assert [env.reset(seed=seed)[1]["instance_id"] for seed in (6, 5)] == chosen[:3:-1]
    _, info = env.reset(options={"instance": others[1]})
    assert info["instance_id"] == others[1].instance_id
    env.close()


def test_what_it_is_made_of_has_to_be_clear() -> None:
    wrong: list[dict[str, Any]] = [
        {},
        {"instance": INSTANCE, "image": "a"},
        {"image": "a"},
        {"instance": INSTANCE, "render_mode": "human"},
    ]
    for options in wrong:
        with pytest.raises(InvalidRequest):
            SweEnv(**options)


def maker(number: int) -> Callable[[], SweEnv]:
    return lambda: made(max_steps=3, max_output=1000)


def played(env: VectorEnv[Any, Any, Any]) -> list[Any]:
    """Plays two episodes in each of eight environments; returns what they showed."""
    shown: list[Any] = []
    observation, _ = env.reset(seed=1)
    shown.append(observation["output"])
    for turn in range(5):
        actions = tuple(f"echo {turn} {number} ü; exit {number}" for number in range(8))
        observation, reward, terminated, truncated, _ = env.step(actions)
        assert observation in env.observation_space
        shown.append((observation["output"], observation["exit_code"].tolist()))
        shown.append((reward.tolist(), terminated.tolist(), truncated.tolist()))
    return shown


def expected() -> list[Any]:
    shown: list[Any] = [("",) * 8]
    for turn in range(5):
        if turn == 3:
            # The episodes were truncated: this step is the reset.
            shown.append((("",) * 8, [0] * 8))
        else:
            output = tuple(f"{turn} {number} ü\n" for number in range(8))
            shown.append((output, list(range(8))))
        shown.append(([0.0] * 8, [False] * 8, [turn == 2] * 8))
    return shown


def test_eight_at_once_in_one_process(binary: str) -> None:
    env = SyncVectorEnv([maker(number) for number in range(8)])
    try:
        assert played(env) == expected()
    finally:
        env.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_eight_at_once_in_processes(binary: str, client: Client, context: str) -> None:
    # This process has a server already, whose descriptors the children must not keep.
    assert isinstance(client.sessions(), list)
    env = AsyncVectorEnv(
        [maker(number) for number in range(8)], context=context, shared_memory=False
    )
    try:
        assert played(env) == expected()
    finally:
        env.close()


# Gymnasium tells of it.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_exception_comes_out_of_a_process(binary: str) -> None:
    env = AsyncVectorEnv([lambda: made(start={"ttl": 2.0})], context="fork", shared_memory=False)
    env.reset()
    with pytest.raises(SessionEnded) as caught:
        env.step(("echo until here; sleep 100",))
    assert caught.value.result is not None
    assert caught.value.result.stdout == b"until here\n"
    env.close(terminate=True)


def test_shared_memory_is_refused_and_not_wrong(binary: str) -> None:
    with pytest.raises(ValueError, match="shared_memory=False"):
        AsyncVectorEnv([maker(0)], context="fork", shared_memory=True)


def test_numbers_are_of_their_type(binary: str) -> None:
    env = made()
    observation, _ = env.reset()
    assert observation["exit_code"].dtype == np.int32
    assert observation["exit_code"].shape == ()
    env.close()


def test_it_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(gym_env)
    seen: Optional[Any] = gymnasium.registry.get(ENV_ID)
    assert seen is not None
    assert seen.entry_point == "imgforge_sandbox.gym_env:SweEnv"
