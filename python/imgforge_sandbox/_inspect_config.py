"""What a sandbox of Inspect is started with: fields of its own, or a compose file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Mapping, Optional

import yaml
from inspect_ai.util import ComposeConfig, ComposeService, ComposeVolumeMount, is_compose_yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ._errors import InvalidRequest
from ._shared import source

FILES = ["imgforge.yaml", "imgforge.yml"]
"""Files beside a task that have the fields of `ImgforgeConfig`."""

COMPOSE_FILES = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"]


class ImgforgeConfig(BaseModel):
    """What a sandbox is started with: `image`, or `dataset` and `instance_id`.

    The other fields are those of `imgforge_sandbox.Client.start`: `memory` is in bytes, `ttl` and
    `idle` are in seconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: Optional[str] = None
    dataset: Optional[str] = None
    instance_id: Optional[str] = None
    split: str = "test"
    env: Optional[dict[str, str]] = None
    workdir: Optional[str] = None
    user: Optional[str] = None
    network: Optional[str] = None
    allow: Optional[list[str]] = None
    publish: Optional[list[str]] = None
    bind: Optional[list[str]] = None
    tmpfs: Optional[list[str]] = None
    read_only: bool = False
    memory: Optional[int] = None
    cpus: Optional[float] = None
    pids: Optional[int] = None
    ttl: Optional[float] = None
    idle: Optional[float] = None

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def start_options(self) -> dict[str, Any]:
        """Returns the parameters of `Client.start`. Raises `InvalidRequest`."""
        told = self.model_dump(exclude={"image", "dataset", "instance_id", "split"})
        return {**source(self.image, self.dataset, self.instance_id, self.split), **told}


def resolve(config: object, metadata: Mapping[str, object]) -> ImgforgeConfig:
    """Reads the configuration of a task or a sample: fields, a file of fields, or compose.

    Values of compose files may have `${SAMPLE_METADATA_NAME}` and variables of this environment.
    Raises `InvalidRequest` for what cannot be honoured.
    """
    if isinstance(config, ImgforgeConfig):
        return config
    if isinstance(config, ComposeConfig):
        return _of_compose(config, Path.cwd(), "the compose configuration")
    if not isinstance(config, str):
        found = "no configuration" if config is None else f"a {type(config).__name__}"
        raise InvalidRequest(
            f"there is {found} of the sandbox",
            hint='write sandbox=SandboxEnvironmentSpec("imgforge", ImgforgeConfig(image=...)), or '
            f"put {FILES[0]} or {COMPOSE_FILES[0]} beside the task",
        )
    path = Path(config)
    if not path.is_file():
        raise InvalidRequest(
            f"{path} is no file",
            hint="Inspect takes a text for the path of a file; an image is named by "
            "ImgforgeConfig(image=...)",
        )
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        if is_compose_yaml(config):
            values = _interpolated(told, {**os.environ, **_of_metadata(metadata)}, path.name)
            return _of_compose(ComposeConfig.model_validate(values), path.parent, str(path))
        return ImgforgeConfig.model_validate(told)
    except (yaml.YAMLError, ValidationError) as error:
        raise InvalidRequest(f"{path}: {error}") from error


def _of_metadata(metadata: Mapping[str, object]) -> dict[str, str]:
    return {
        f"SAMPLE_METADATA_{name.replace(' ', '_').upper()}": str(value)
        for name, value in metadata.items()
    }


_REFERENCE = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<plain>[A-Za-z_]\w*)"
    r"|\{(?P<braced>[A-Za-z_]\w*)(?:(?P<operator>:?-)(?P<default>[^}]*))?\})"
)


def _interpolated(value: Any, variables: Mapping[str, str], where: str) -> Any:
    """Puts variables into the texts of a compose file, as compose does."""
    if isinstance(value, dict):
        return {key: _interpolated(part, variables, where) for key, part in value.items()}
    if isinstance(value, list):
        return [_interpolated(part, variables, where) for part in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name = match["plain"] or match["braced"]
        if match["operator"] == ":-":
            return variables.get(name) or match["default"]
        if match["operator"] == "-":
            return variables.get(name, match["default"])
        if name not in variables:
            raise InvalidRequest(f"{where}: the variable {name} of {value!r} has no value")
        return variables[name]

    return _REFERENCE.sub(put, value)


# What a session does by itself, or what changes nothing here.
_NEEDLESS = {"init", "stop_grace_period", "tty", "stdin_open", "restart", "expose", "pull_policy"}
_HONOURED = {
    "image",
    "working_dir",
    "environment",
    "user",
    "network_mode",
    "read_only",
    "tmpfs",
    "volumes",
    "ports",
    "mem_limit",
    "cpus",
    "pids_limit",
    "deploy",
    "command",
    "entrypoint",
    "x_default",
}
_KEEPS_ALIVE = re.compile(r"tail -f /dev/null|sleep (infinity|inf|\d+[smhd]?)")


def _of_compose(config: ComposeConfig, directory: Path, where: str) -> ImgforgeConfig:
    if len(config.services) != 1:
        raise InvalidRequest(
            f"{where} has {len(config.services)} services; a sandbox is one session",
            hint='serve them to Inspect\'s own "docker": `imgforge serve --docker-api`',
        )
    ((name, service),) = config.services.items()
    extension = service.extensions.get("x-imgforge") or {}
    try:
        return ImgforgeConfig.model_validate(
            {**_of_service(service, directory, f"{where}: the service `{name}`"), **extension}
        )
    except ValidationError as error:
        raise InvalidRequest(f"{where}: {error}") from error


def _of_service(service: ComposeService, directory: Path, where: str) -> dict[str, Any]:
    """Makes fields of a service. What cannot be honoured is refused, not left out."""
    given = {name for name in type(service).model_fields if getattr(service, name) is not None}
    refused = given - _HONOURED - _NEEDLESS
    if refused:
        hint = (
            'take it out, or serve the file to Inspect\'s "docker": `imgforge serve --docker-api`'
        )
        if "build" in refused:
            hint = "build the image first, and name it in `image`"
        raise InvalidRequest(
            f"{where} has what sessions do not: {', '.join(sorted(refused))}", hint=hint
        )
    for program in (service.entrypoint, service.command):
        words = program if isinstance(program, str) or program is None else " ".join(program)
        if words and not _KEEPS_ALIVE.fullmatch(words):
            raise InvalidRequest(
                f"{where} starts `{words}`; in a session nothing runs but commands",
                hint='start it with `exec`, or serve the file to Inspect\'s "docker": '
                "`imgforge serve --docker-api`",
            )
    fields: dict[str, Any] = {
        "image": service.image,
        "env": _environment(service.environment),
        "workdir": service.working_dir,
        "user": service.user,
        "network": service.network_mode,
        "read_only": bool(service.read_only),
        "bind": [_bind(volume, directory, where) for volume in service.volumes or []] or None,
        "tmpfs": [service.tmpfs] if isinstance(service.tmpfs, str) else service.tmpfs,
        "publish": [_port(port, where) for port in service.ports or []] or None,
        **_limits(service, where),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _environment(told: Any) -> Optional[dict[str, str]]:
    if told is None:
        return None
    if isinstance(told, list):
        told = {
            name: value if separator else None
            for name, separator, value in (str(line).partition("=") for line in told)
        }
    # Without a value it is that of this environment, as in compose.
    values = {
        name: os.environ.get(name) if value is None else value for name, value in told.items()
    }
    return {name: str(value) for name, value in values.items() if value is not None}


def _bind(volume: Any, directory: Path, where: str) -> str:
    if isinstance(volume, ComposeVolumeMount):
        rest = volume.type == "bind" and not (volume.volume or volume.tmpfs or volume.image)
        origin, target = volume.source, volume.target
        mode = "ro" if volume.read_only else "rw"
    else:
        origin, target, mode = [*str(volume).split(":"), "rw", "rw"][:3]
        rest = str(volume).count(":") in (1, 2) and mode in ("ro", "rw")
    if not rest or not origin or not target or not origin.startswith((".", "/", "~")):
        raise InvalidRequest(
            f"{where} has a volume that is no file or directory of this machine: {volume!r}"
        )
    path = (directory / os.path.expanduser(origin)).resolve()
    return f"{path}:{target}:ro" if mode == "ro" else f"{path}:{target}"


def _port(port: Any, where: str) -> str:
    told = str(port).removesuffix("/tcp")
    if not re.fullmatch(r"((\d+\.){3}\d+:)?(\d+:)?\d+", told):
        raise InvalidRequest(f"{where} has a port that cannot be published: {port!r}")
    return told


def _limits(service: ComposeService, where: str) -> dict[str, Any]:
    memory, cpus = service.mem_limit, service.cpus
    resources = service.deploy.resources if service.deploy else None
    if resources and resources.reservations:
        raise InvalidRequest(f"{where} reserves resources; sessions have limits only")
    if resources and resources.limits:
        memory = resources.limits.memory or memory
        cpus = float(resources.limits.cpus) if resources.limits.cpus else cpus
    pids = None if service.pids_limit is None else int(service.pids_limit)
    return {
        "memory": None if memory is None else _bytes(memory, where),
        "cpus": cpus,
        "pids": pids if pids is None or pids > 0 else None,
    }


def _bytes(told: str, where: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([bkmg]?)b?", told.strip().lower())
    if match is None:
        raise InvalidRequest(f"{where} has a limit of memory that is no size: {told!r}")
    return int(match[1]) << {"": 0, "b": 0, "k": 10, "m": 20, "g": 30}[match[2]]
