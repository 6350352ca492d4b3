"""The clients: what they are called, what they need, and what a user of each types."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """One client that somebody else wrote."""

    name: str
    # The script in drive/ that makes the client work. It ends with 0 where the client did all that
    # is expected, and its last line that begins with `result:` is the result.
    script: str
    # What a user types.
    command: str
    # The distribution on PyPI whose version is shown; Debian's packages have none.
    distribution: str = ""
    # The oldest Python that it runs on.
    python: tuple[int, int] = (3, 10)
    # Whether it takes a few seconds.
    quick: bool = True
    # The seconds after which it has failed.
    limit: int = 600
    # The client whose environment and tests it has.
    shares: str = ""

    @property
    def home(self) -> str:
        """Returns what its environment is called."""
        return self.shares or self.name


CLIENTS = [
    Client("docker-cli", "docker_cli.sh", "docker run, exec, cp, logs, build, …", limit=300),
    Client("mini", "mini.py", "mini-swe-agent, environment_class: docker", "mini-swe-agent"),
    Client("swe-rex", "swe_rex.py", "DockerDeployment(image=…)", "swe-rex"),
    Client("swe-rex-remote", "swe_rex_remote.py", "RemoteDeployment(host=…), imgforge session start --swerex",
           "swe-rex", shares="swe-rex"),
    Client("r2e-gym", "r2e_gym.py", "RepoEnv(EnvArgs(ds=…))"),
    Client("verifiers", "verifiers_runtime.py", "DockerRuntime(DockerConfig(image=…))", "verifiers",
           python=(3, 11)),
    Client("compose", "compose.sh", "docker compose up --wait, exec, cp, build, down"),
    Client("docker-py", "docker_py.py", "pytest tests/integration (of 7.0.0)", "docker", quick=False,
           limit=1500),
    Client("swebench", "swebench_harness.py", "python -m swebench.harness.run_evaluation", "swebench",
           quick=False, limit=3600),
    Client("inspect", "inspect_checks.py", "inspect eval …, sandbox=\"docker\"", "inspect-ai",
           quick=False),
    Client("harbor", "harbor.sh", "harbor run -p TASK -a oracle", "harbor", python=(3, 12),
           quick=False),
    Client("terminal-bench", "terminal_bench.sh", "tb run --task-id TASK -a oracle",
           "terminal-bench", python=(3, 12), quick=False),
    Client("openhands", "openhands_workspace.py", "DockerWorkspace(server_image=…)",
           "openhands-workspace", python=(3, 12), quick=False),
]


def named(names: list[str]) -> list[Client]:
    """Returns the clients with these names, in the order of the table."""
    known = {client.name for client in CLIENTS}
    for name in names:
        if name not in known:
            raise SystemExit(f"error: there is no client `{name}`\n\n"
                             f"hint: there are {', '.join(sorted(known))}")
    return [client for client in CLIENTS if client.name in names]
