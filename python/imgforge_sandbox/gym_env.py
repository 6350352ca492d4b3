"""An environment of Gymnasium: a session in which an agent runs commands, until it submits.

    import gymnasium
    import imgforge_sandbox.gym_env

    env = gymnasium.make("imgforge/Swe-v0", instance=("demo", "imgforge__abacus-1"))
    observation, info = env.reset(seed=1)
    observation, reward, terminated, truncated, info = env.step("git log -1")
    env.close()

It needs the extra `gym`: `pip install imgforge-sandbox[gym]`.
"""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import gymnasium
import numpy as np
from gymnasium import spaces

from ._errors import ConnectionLost, ImgforgeError, InvalidRequest
from .client import Client
from .gym_space import Utf8
from .results import ExecResult, Grade, Instance, InstanceLike, as_instance
from .session import Session

__all__ = ["ENV_ID", "SweEnv", "Utf8"]

ENV_ID = "imgforge/Swe-v0"
"""The name of the environment in Gymnasium's registry."""

FINISH = ("submit", "finish")
"""The actions that end an episode."""


class SweEnv(gymnasium.Env[Dict[str, Any], str]):
    """Runs each action as `sh -c` in a session, with both outputs in one.

    An observation has `output` (a text; what is not UTF-8 is replaced) and `exit_code`. The same
    seed and actions give the same observations and infos, where the commands do: times, numbers of
    processes and the like are in neither. `last_result`, `last_grade` and `session` have them.

    An action that is exactly `submit` or `finish` ends the episode (`terminated`), and its reward
    is that of the patch: 1.0 where the instance is resolved, 0.0 where it is not. All other rewards
    are 0.0. Where there is no verdict, `step` raises `NoVerdict`; where something failed,
    `InfraError`, `SessionEnded` or another `ImgforgeError`: that is never a reward. `reset` goes on
    after them.

    `AsyncVectorEnv` needs `shared_memory=False`.

    After `max_steps` steps `truncated` is true. Nothing is graded then.
    """

    metadata: Dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012

    def __init__(
        self,
        instance: Optional[InstanceLike] = None,
        *,
        instances: Sequence[InstanceLike] = (),
        image: Optional[str] = None,
        reward: Optional[Callable[[Session], float]] = None,
        statement: Optional[Callable[[Optional[Instance]], str]] = None,
        max_steps: int = 100,
        step_timeout: float = 90.0,
        grade_timeout: Optional[float] = None,
        max_output: int = 1 << 16,
        max_action: int = 1 << 16,
        start: Optional[Mapping[str, Any]] = None,
        client: Optional[Client] = None,
        client_options: Optional[Mapping[str, Any]] = None,
        render_mode: Optional[str] = None,
    ) -> None:
        """Says what to play. The session is started by `reset`.

        One of `instance`, `instances` (of which `reset` takes one by its seed) and `image` is
        needed. `reward` computes the reward of a submission instead of the grade of its patch; with
        `image` it is needed. `statement` makes the first output of an episode, such as the text of
        the issue. `step_timeout` and `grade_timeout` are in seconds, `max_output` is in bytes and
        keeps the end, `max_action` is in characters. `start` has more parameters of `Client.start`.
        Without `client` the environment has one of its own, made with `client_options`.
        """
        chosen = [instance] if instance is not None else list(instances)
        if bool(chosen) == (image is not None):
            raise InvalidRequest("one of `instance`, `instances` and `image` is needed")
        if not chosen and reward is None:
            raise InvalidRequest("an image has no tests", hint="give `reward`, or an instance")
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise InvalidRequest(f"render_mode={render_mode!r} is not known", hint="it is `ansi`")
        self._instances = [as_instance(one) for one in chosen]
        self._image = image
        self._reward = reward
        self._statement = statement
        self._max_steps = max_steps
        self._step_timeout = step_timeout
        self._grade_timeout = grade_timeout
        self._max_output = max_output
        self._start = dict(start or {})
        self._client = client
        self._owns_client = client is None
        self._client_options = dict(client_options or {})
        self.render_mode = render_mode
        whole = np.iinfo(np.int32)
        self.observation_space = spaces.Dict(
            {
                "output": Utf8(max_output),
                "exit_code": spaces.Box(whole.min, whole.max, (), np.int32),
            }
        )
        self.action_space = Utf8(max_action, nul=False)
        self.session: Optional[Session] = None
        self.instance: Optional[Instance] = None
        self.last_result: Optional[ExecResult] = None
        self.last_grade: Optional[Grade] = None
        self._steps = 0
        self._over = True
        self._shown: List[str] = []

    def reset(
        self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None
    ) -> tuple[Dict[str, Any], Dict[str, Any]]:
        """Begins an episode in a fresh session. `options["instance"]` names the instance."""
        super().reset(seed=seed)
        named = (options or {}).get("instance")
        instance = self._choose() if named is None else as_instance(named)
        self._over = True
        self.last_result = self.last_grade = None
        self._begin(instance)
        self.instance = instance
        self._steps = 0
        self._over = False
        output = self._statement(instance) if self._statement is not None else ""
        self._shown = [output] if output else []
        return _observation(output[: self._max_output], 0), self._info("exited", 0)

    def step(self, action: str) -> tuple[Dict[str, Any], float, bool, bool, Dict[str, Any]]:
        """Runs a command, or submits."""
        session = self.session
        if session is None or self._over:
            raise gymnasium.error.ResetNeeded("the episode is over, or none began: call `reset`")
        if action not in self.action_space:
            raise InvalidRequest(
                f"{str(action)[:100]!r} is no action",
                hint="an action is a text of UTF-8 without zero bytes, not too long",
            )
        if action.strip() in FINISH:
            self._over = True
            self._shown.append(f"$ {action.strip()}\n")
            reward = self._graded(session)
            info = self._info("exited", 0)
            if self.last_grade is not None:
                info["resolved"] = self.last_grade.resolved
                info["verdict"] = self.last_grade.verdict
            return _observation("", 0), reward, True, False, info
        result = session.exec(
            action, timeout=self._step_timeout, max_output=self._max_output, merge=True
        )
        self.last_result = result
        self._steps += 1
        truncated = self._steps >= self._max_steps
        self._over = truncated
        code = -1 if result.code is None else result.code
        self._shown.append(f"$ {action}\n{result.text}[{result.end}: {code}]\n")
        info = self._info(result.end, result.dropped_stdout)
        return _observation(result.text, code), 0.0, False, truncated, info

    def render(self) -> Optional[str]:
        """Returns what happened in this episode, as text; None without a render mode."""
        return "".join(self._shown) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Ends the session, and the client where it is the environment's own."""
        session, self.session = self.session, None
        self._over = True
        client = self._client if self._owns_client else None
        if client is not None:
            # Its session ends with it.
            self._client = None
            client.close()
        if session is not None:
            session.stop()

    def _choose(self) -> Optional[Instance]:
        if len(self._instances) < 2:
            return self._instances[0] if self._instances else None
        return self._instances[int(self.np_random.integers(len(self._instances)))]

    def _begin(self, instance: Optional[Instance]) -> None:
        """Makes the session fresh: by its reset, or a new one where that does not do."""
        session = self.session
        if session is not None and instance == self.instance:
            try:
                session.reset()
                return
            except ImgforgeError:
                # It ended, or its server did, or something broke: another one may be whole.
                pass
        self.session = None
        if session is not None:
            with contextlib.suppress(ImgforgeError):
                session.stop()
        try:
            self.session = self._started(instance)
        except ConnectionLost:
            if not self._owns_client or self._client is None:
                raise
            self._client.close()
            self._client = None
            self.session = self._started(instance)

    def _started(self, instance: Optional[Instance]) -> Session:
        if self._client is None:
            self._client = Client(**self._client_options)
        return self._client.start(instance=instance, image=self._image, **self._start)

    def _graded(self, session: Session) -> float:
        if self._reward is not None:
            return float(self._reward(session))
        self.last_grade = session.grade(timeout=self._grade_timeout)
        return self.last_grade.reward

    def _info(self, end: str, dropped: int) -> Dict[str, Any]:
        instance = self.instance
        return {
            "end": end,
            "dropped": dropped,
            "steps": self._steps,
            "instance_id": instance.instance_id if instance is not None else "",
        }


def _observation(output: str, code: int) -> Dict[str, Any]:
    return {"output": output, "exit_code": np.array(code, dtype=np.int32)}


if ENV_ID not in gymnasium.registry:
    gymnasium.register(ENV_ID, entry_point="imgforge_sandbox.gym_env:SweEnv")
