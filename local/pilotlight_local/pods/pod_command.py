"""The exact argv and environment of one pod, run as a process instead of a container. Pure.

A container sees its own /mnt/models, its own port 8080 and the cluster's DNS; a process sees none of them, so their
places in command, args and environment are filled with what the platform gave this pod.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pilotlight_protocol.adapters import ADAPTER_ANNOTATION, ADAPTER_VARIABLE
from pilotlight_protocol.leases import POOL_URL_VARIABLE, PREWARM_ANNOTATION, PREWARM_VARIABLE, TENANT_VARIABLE
from pilotlight_specs.desired import Component, Container

# What the entrypoint of our own images is; the kind of device says nothing about it.
_OWN_IMAGE = re.compile(r"(?:.*/)?pilotlight[/-](predictor|transformer)(?:-cpu|-cuda)?")
_IMAGE_VERSION = re.compile(r"(:[\w.-]+)?(@[\w:+.-]+)?$")
_PORT_FLAGS = ("--http_port", "--http-port", "--port")
_VARIABLE = re.compile(r"\$(\$|\(([^()]*)\))?")


class NoEntrypoint(ValueError):
    """The container names no command, and the image is not one of ours."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What the platform gave to one pod.

    `python` replaces `python` and `python3` at the start of a command. `predictor_address` ("host:port") stands for the
    cluster name `<isvc>-predictor.<ns>`. `directories`: mount path in the container -> directory on this machine.
    """

    port: int
    python: str
    predictor_address: str = ""
    directories: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PodCommand:
    """What to execute. `env` is complete: nothing is inherited. `working_dir` is empty when the spec names none."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    working_dir: str


def pod_command(component: Component, revision_name: str, placement: Placement) -> PodCommand:
    """argv and environment of one pod of `revision_name`. Raises NoEntrypoint when nothing says what to run."""
    container = component.pod.container
    local = _Localizer(component, placement)
    declared: dict[str, str] = {}
    for variable in container.env:
        # Kubernetes expands with the variables before this one; a later variable is not seen.
        declared[variable.name] = local.text(expand_variables(variable.value, declared))
    adapter = dict(component.annotations).get(ADAPTER_ANNOTATION)
    if adapter is not None:
        declared.setdefault(ADAPTER_VARIABLE, adapter)
    # Knative appends its own after the user's.
    declared["PORT"] = str(placement.port)
    declared["K_REVISION"] = revision_name
    declared["K_CONFIGURATION"] = declared["K_SERVICE"] = component.service_name
    temporary = placement.directories.get("/tmp")  # noqa: S108 - the container's /tmp, mounted as an emptyDir
    if temporary is not None:
        # A process cannot be given another /tmp, but programs that ask for a place to write follow TMPDIR.
        declared.setdefault("TMPDIR", temporary)
    command = [local.text(expand_variables(part, declared)) for part in _entrypoint(container)]
    args = [local.text(expand_variables(part, declared)) for part in container.args]
    if command[0] in ("python", "python3"):
        command[0] = placement.python
    return PodCommand(
        argv=(*command, *_with_port(args, container.port, placement.port)),
        env=tuple(declared.items()),
        working_dir=local.text(container.working_dir),
    )


def leases_engines(component: Component) -> bool:
    """Whether a warm pool serves this component: it runs our predictor, and its spec says nothing about a pool."""
    if component.role != "predictor":
        return False
    container = component.pod.container
    if any(variable.name == POOL_URL_VARIABLE for variable in container.env):
        return False
    try:
        command = _entrypoint(container)
    except NoEntrypoint:
        return False
    return any("pilotlight_predictor" in part for part in (*command, *container.args)) and not any(
        arg.partition("=")[0] == "--pool_url" for arg in container.args
    )


def pool_env(component: Component, pool_url: str) -> dict[str, str]:
    """What a cluster's ServingRuntime would say of the pool: where it is, for whom, and when to hold an engine warm."""
    said = {POOL_URL_VARIABLE: pool_url, TENANT_VARIABLE: component.namespace}
    schedule = dict(component.annotations).get(PREWARM_ANNOTATION)
    return said if schedule is None else {**said, PREWARM_VARIABLE: schedule}


def expand_variables(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` by its value; `$$` is a plain dollar, so `$$(NAME)` stays `$(NAME)`; unknown names stay as written."""

    def fill(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        name = match.group(2)
        return match.group() if name is None else variables.get(name, match.group())

    return _VARIABLE.sub(fill, text)


def _entrypoint(container: Container) -> tuple[str, ...]:
    if container.command:
        return container.command
    own = _OWN_IMAGE.fullmatch(_IMAGE_VERSION.sub("", container.image))
    if own is None:
        raise NoEntrypoint(
            f"container {container.name} (image {container.image or 'none'}) has no command, and images are not run "
            "here; set command, for example ['python', '-m', 'pilotlight_predictor']"
        )
    return ("python", "-m", f"pilotlight_{own.group(1)}")


def _with_port(args: Sequence[str], declared: int, port: int) -> list[str]:
    """The args with the container's declared port replaced where a port flag names it."""
    result = list(args)
    for index, arg in enumerate(result):
        flag, separator, value = arg.partition("=")
        if flag not in _PORT_FLAGS:
            continue
        if separator and value == str(declared):
            result[index] = f"{flag}={port}"
        elif not separator and index + 1 < len(result) and result[index + 1] == str(declared):
            result[index + 1] = str(port)
    return result


class _Localizer:
    """Replaces the container's paths and the predictor's cluster name in a string."""

    def __init__(self, component: Component, placement: Placement) -> None:
        self._directories = placement.directories
        # The longest path first: /mnt/models/a must not become <dir of /mnt/models>/a when it is mounted itself.
        paths = "|".join(re.escape(path) for path in sorted(placement.directories, key=len, reverse=True))
        self._paths = re.compile(rf"(?<![\w./-])({paths})(?![\w.-])") if paths else None
        host = re.escape(f"{component.isvc}-predictor.{component.namespace}")
        self._host = re.compile(rf"(?<![\w.-]){host}(\.svc(\.cluster\.local)?)?(:\d+)?(?![\w.-])")
        self._address = placement.predictor_address

    def text(self, value: str) -> str:
        if self._paths is not None:
            value = self._paths.sub(lambda match: self._directories[match.group(1)], value)
        if self._address:
            value = self._host.sub(lambda _: self._address, value)
        return value
