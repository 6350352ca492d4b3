"""A client: it starts a server of its own, or connects to one that runs."""

from __future__ import annotations

from concurrent.futures import Future
from types import TracebackType
from typing import Any, Iterable, Mapping, Optional, Sequence, Union

from . import _calls
from ._connection import Call, Connection, T
from ._link import Connect, Link, Spawn, StrPath
from ._progress import ProgressOption
from ._task import Task
from .results import Checkpoint, Grade, InstanceLike, SessionInfo, as_instance
from .session import Session


class Client:
    """Starts sessions, on a server `imgforge serve --stdio` that is a child of this process.

    All sessions end with the client: with `close`, the end of the `with` block, the end of the
    interpreter, or the death of this process. Any thread may use it. In a child that was forked it
    makes a server of its own; the sessions of the parent stay the parent's.
    """

    def __init__(
        self,
        binary: Optional[StrPath] = None,
        *,
        engine: Optional[str] = None,
        backend: Optional[str] = None,
        state_dir: Optional[StrPath] = None,
        options: Sequence[str] = (),
        env: Optional[Mapping[str, str]] = None,
        progress: ProgressOption = True,
    ) -> None:
        """Starts the server.

        `binary` is the program, else the one that IMGFORGE_BIN names, the one beside this
        interpreter, or the first in PATH. `engine` is `embedded`, `docker` or `auto`, and has the
        images. `backend` is where sessions run: `embedded` or `docker`, which name the engine as
        well, or `kubernetes`, as pods of the cluster of the kubeconfig. Pods get their images from
        a registry: `options=["--cache-registry", "ghcr.io/me"]`, IMGFORGE_CACHE_REGISTRY, or
        images.toml. `state_dir` is where images and caches are; `options` are further options of
        `imgforge serve`; `env` is beside the environment of this process.

        `progress` says what is shown of starts, grades, resets, checkpoints and forks that take
        more than a second. True: a bar where tqdm is installed and stderr is a terminal or this is
        a notebook, else records of the logger `imgforge_sandbox`. False: nothing. A function is
        called with each `Progress`, in the thread that waits; what it raises ends the waiting.

        Raises `BinaryNotFound`, `VersionMismatch`, `InfraError` or `Refused` where it says why it
        cannot serve, and `ConnectionLost` where it ends without a word.
        """
        self.link = Link(Spawn(binary, engine, state_dir, options, env, backend), progress)
        self.link.get()

    @classmethod
    def on_link(cls, link: Link) -> Client:
        """Makes a client of a link, which connects when it is used."""
        client = cls.__new__(cls)
        client.link = link
        return client

    @property
    def version(self) -> str:
        """The version of the server."""
        return self._connection.version

    @property
    def engine(self) -> str:
        """Where sessions run: `embedded`, `docker` or `kubernetes`."""
        return self._connection.engine

    @property
    def features(self) -> list[str]:
        """What the server can do."""
        return list(self._connection.features)

    def start(
        self,
        *,
        image: Optional[str] = None,
        instance: Optional[InstanceLike] = None,
        checkpoint: Union[str, Checkpoint, None] = None,
        env: Optional[Mapping[str, str]] = None,
        workdir: Optional[str] = None,
        user: Optional[str] = None,
        network: Optional[str] = None,
        allow: Optional[Iterable[str]] = None,
        publish: Optional[Iterable[Union[str, int]]] = None,
        bind: Optional[Iterable[str]] = None,
        tmpfs: Optional[Iterable[str]] = None,
        read_only: bool = False,
        memory: Optional[int] = None,
        cpus: Optional[float] = None,
        pids: Optional[int] = None,
        ttl: Optional[float] = None,
        idle: Optional[float] = None,
        labels: Optional[Mapping[str, str]] = None,
    ) -> Session:
        """Starts a session from one of `image`, `instance` and `checkpoint`.

        `instance` is `(dataset, instance_id)`, or an `Instance`. Its image is built where it is
        missing, which may take long; the tests of the instance are not in it. `env`, `workdir` and
        `user` are for all commands. `network` is `none` (if nothing is said), `proxy`, `host` or
        `bridge`; `allow` has the hosts that it may reach, and makes it `proxy`. `publish` has ports
        (`8000`, `"9000:8000"`), `bind` paths of this machine (`"/src:/dst:ro"`), `tmpfs`
        directories in memory (`"/scratch:size=64m"`). `memory` is in bytes, `cpus` may be 1.5,
        `pids` counts processes and threads. After `ttl` seconds, or `idle` seconds without a
        request, it ends. `labels` are told by `sessions`.

        Raises `NoSuchImage`, `NoSuchInstance`, `NoSuchCheckpoint`, `Unsupported`, `InfraError`.
        """
        options = _calls.StartOptions(
            image=image,
            instance=instance,
            checkpoint=checkpoint,
            env=env,
            workdir=workdir,
            user=user,
            network=network,
            allow=allow,
            publish=publish,
            bind=bind,
            tmpfs=tmpfs,
            read_only=read_only,
            memory=memory,
            cpus=cpus,
            pids=pids,
            ttl=ttl,
            idle=idle,
            labels=labels,
        )
        connection = self._connection
        task = Task(connection, _calls.start(options), f"starting {options.name()}")
        try:
            info = task.result()
        except BaseException:
            stop_unused(connection, task.future)
            raise
        return Session(self, connection, info)

    def fork(self, checkpoint: Union[str, Checkpoint], n: int = 1) -> list[Session]:
        """Starts `n` sessions from a checkpoint, with the options of the session that it is of."""
        connection = self._connection
        id = _calls.checkpoint_id(checkpoint)
        task = Task(connection, _calls.fork(n, checkpoint=id), f"forking {id}")
        return [Session(self, connection, info) for info in task.result()]

    def session(self, id: str) -> Session:
        """Returns a session of the server by its id, such as one that another connection started.

        It is not stopped when the object goes away. Raises `NoSuchSession`.
        """
        connection = self._connection
        info = connection.call(_calls.find(id))
        session = Session(self, connection, info)
        session.disown()
        return session

    def sessions(self) -> list[SessionInfo]:
        """Lists the sessions of the server."""
        return self._call(_calls.listed())

    def grade(
        self,
        instance: InstanceLike,
        patch: _calls.Text,
        *,
        model: Optional[str] = None,
        timeout: Optional[float] = None,
        strict: bool = False,
    ) -> Grade:
        """Grades a patch in a fresh container, as `imgforge eval` does; no session is needed.

        Where there is no verdict, `resolved` is None: that is not False.
        """
        call = _calls.grade(
            instance=instance, patch=patch, model=model, timeout=timeout, strict=strict
        )
        name = f"grading {as_instance(instance).instance_id}"
        return Task(self._connection, call, name).result()

    def checkpoints(self) -> list[Any]:
        """Lists the checkpoints, as `imgforge session ls --checkpoints --json`."""
        return self._call(_calls.checkpoints())

    def remove_checkpoint(self, checkpoint: Union[str, Checkpoint]) -> None:
        """Removes a checkpoint. Sessions that stand on it go on."""
        id = _calls.checkpoint_id(checkpoint)
        self._call(_calls.simple("checkpoint.remove", checkpoint=id))

    def close(self) -> None:
        """Ends the server, and all sessions that this client started. Another call does nothing."""
        self.link.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # It may run in any thread, at any time: it sends, and does not wait.
        link = getattr(self, "link", None)
        if link is not None:
            link.close_soon()

    @property
    def _connection(self) -> Connection:
        return self.link.get()

    def _call(self, call: Call[T]) -> T:
        return self._connection.call(call)


def stop_unused(connection: Connection, started: Future[Any]) -> None:
    """Ends a session that is being started, because nobody waits for it any more."""

    def stop(done: Future[Any]) -> None:
        if done.exception() is None:
            connection.post("session.stop", {"session": done.result().get("session")})

    started.add_done_callback(stop)


def connect(url: str, *, progress: ProgressOption = True) -> Client:
    """Connects to a server that runs: `imgforge serve --rpc unix:///PATH`.

    Closing the client ends the sessions that it started; the server lives on. `progress` is that of
    `Client`. Raises `ConnectionLost` where nobody listens, and `VersionMismatch`.
    """
    client = Client.on_link(Link(Connect(url), progress))
    client.link.get()
    return client
