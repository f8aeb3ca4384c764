"""What keeps a component from ever starting on this machine, as far as it can be known before its pod is started.

No command and a foreign image, a program that is not here, a model's folder that is not there, arguments that our own
components refuse. What the other arguments mean is kept, for the gateway. Must not: import a component (each is asked
about its arguments in a process of its own), or fetch.
"""

import contextlib
import json
import os
import re
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

import msgspec

from pilotlight_local.embedded.endpoint_entries import Meaning
from pilotlight_local.pods.model_mounts import missing_here
from pilotlight_local.pods.pod_command import (
    NoEntrypoint,
    Placement,
    PodCommand,
    leases_engines,
    pod_command,
    pool_env,
)
from pilotlight_protocol.adapters import ADAPTER_ANNOTATION
from pilotlight_protocol.endpoint_directory import PredictorMeaning, TransformerMeaning
from pilotlight_specs import Component, Obstacle

ANSWER_TIMEOUT_S = 20.0
# The pool's real address is no part of what is asked.
_ANY_POOL = "unix:///pool"
_CHECKERS = {
    "pilotlight_predictor": "pilotlight_predictor.arguments",
    "pilotlight_transformer": "pilotlight_transformer.settings",
}


class _Answer(msgspec.Struct, frozen=True):
    refused: str = ""
    means: msgspec.Raw = msgspec.Raw(b"null")


_ANSWERS = msgspec.json.Decoder(_Answer)
_FLAG = re.compile(r"--?[A-Za-z][\w-]*")


class Obstacles:
    """A `ComponentCheck`; used as a context, at whose end its processes end."""

    def __init__(self, python: str, search_path: str) -> None:
        self._python = python
        self._search_path = search_path
        self._checkers: dict[str, subprocess.Popen[str]] = {}
        self.means: dict[Component, Meaning] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for checker in self._checkers.values():
            with contextlib.suppress(BrokenPipeError), checker:
                checker.kill()

    def __call__(self, component: Component) -> Iterator[Obstacle]:
        for mount in component.pod.mounts:
            if reason := missing_here(mount.uri):
                yield Obstacle("models", reason)
        adapter = dict(component.annotations).get(ADAPTER_ANNOTATION)
        if adapter and component.role == "predictor" and (reason := missing_here(adapter)):
            yield Obstacle("models", f"{ADAPTER_ANNOTATION}: {reason}")
        try:
            command = pod_command(component, component.service_name, Placement(component.pod.container.port, "python"))
        except NoEntrypoint as error:
            yield Obstacle("command", str(error))
            return
        if (
            adapter
            and component.role == "predictor"
            and not any("pilotlight_predictor" in word for word in command.argv)
        ):
            yield Obstacle("command", f"it would not read {ADAPTER_ANNOTATION}, and answer without the adapter")
        program = command.argv[0]
        found = program in ("python", "python3") or shutil.which(program, path=self._search_path)
        if not found and (program.startswith("/") or "/" not in program):
            yield Obstacle("command", f"there is no program {program} on this machine, and images are not run here")
            return
        yield from self._arguments(component, command)

    def _arguments(self, component: Component, command: PodCommand) -> Iterator[Obstacle]:
        for index, word in enumerate(command.argv[1:], start=1):
            if command.argv[index - 1] == "-m" and word in _CHECKERS:
                args = command.argv[index + 1 :]
                if said := self._ask(word, component, command, args):
                    yield Obstacle("args", f"{word} refuses them: {said}", _meant(said, component))
                elif (uri := _model_uri(args)) and (reason := missing_here(uri)):
                    yield Obstacle("args", reason, _meant("--model_uri", component))
                return

    def _ask(self, module: str, component: Component, command: PodCommand, args: tuple[str, ...]) -> str:
        """What it refuses; "" where it does not, or says nothing."""
        pod = component.pod
        pool = pool_env(component, _ANY_POOL) if leases_engines(component) else {}
        order = {
            "args": args,
            "env": {**dict(command.env), **pool},
            "mounts": [mount.mount_path for mount in pod.mounts] + [empty.mount_path for empty in pod.empty_dirs],
        }
        checker = self._checkers.get(module) or self._start(module)
        assert checker.stdin is not None
        assert checker.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            checker.stdin.write(json.dumps(order) + "\n")
            checker.stdin.flush()
        answers, _, _ = select.select([checker.stdout], [], [], ANSWER_TIMEOUT_S)
        line = checker.stdout.readline() if answers else ""
        if not line:
            # Not installed, or broken: the pod will say so itself.
            return ""
        answer = _ANSWERS.decode(line)
        if not answer.refused:
            kind: type[Meaning] = PredictorMeaning if module == "pilotlight_predictor" else TransformerMeaning
            self.means[component] = msgspec.json.decode(answer.means, type=kind)
        return answer.refused

    def _start(self, module: str) -> subprocess.Popen[str]:
        self._checkers[module] = subprocess.Popen(
            [self._python, "-m", _CHECKERS[module]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": self._search_path},
            cwd=os.sep,
            text=True,
        )
        return self._checkers[module]


def _model_uri(args: Sequence[str]) -> str:
    """What our components are told with --model_uri, "" when they are not."""
    for index, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag == "--model_uri":
            return value if equals else "".join(args[index + 1 : index + 2])
    return ""


def _meant(said: str, component: Component) -> str:
    """The argument of the spec that a refusal names first."""
    flags = _FLAG.findall(said)
    args = component.pod.container.args
    return next((arg for flag in flags for arg in args if arg == flag or arg.startswith(f"{flag}=")), "")
