"""What another process is told of a command line before anything is started with it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

import msgspec
import pytest

from pilotlight_serving.command_line import IsDirectory, answer_checks, parse_known


class Meaning(msgspec.Struct):
    number: int | None

    @classmethod
    def of(cls, given: argparse.Namespace) -> Meaning:
        return cls(given.number)


def parse(argv: Sequence[str], environment: Mapping[str, str], is_directory: IsDirectory) -> object:
    parser = argparse.ArgumentParser(prog="component", allow_abbrev=False)
    parser.add_argument("--number", type=int)
    parser.add_argument("--folder")
    given, _ = parse_known(parser, argv)
    if given.folder and not is_directory(given.folder):
        parser.error(f"no directory {given.folder}")
    if "WRONG" in environment:
        parser.error("WRONG is set")
    return given


@pytest.mark.parametrize(
    ("argv", "env", "said"),
    [
        (["--number=1", "--workers", "3", "--event-loop=auto"], {}, ""),
        (["--number=x"], {}, "argument --number: invalid int value: 'x'"),
        (["--numbr=1"], {}, "unknown argument: --numbr; did you mean --number?"),
        (["--numbr=1", "-x", "y"], {}, "unknown arguments: --numbr; did you mean --number?; -x; y"),
        (["--folder=/mnt/models"], {}, ""),
        (["--folder=/mnt/models/a"], {}, ""),
        (["--folder=/mnt/models-2"], {}, "no directory /mnt/models-2"),
        (["--folder=/here"], {}, ""),
        ([], {"WRONG": "1"}, "WRONG is set"),
        (["--help"], {}, "it prints its help and ends"),
    ],
)
def test_checks(argv: list[str], env: dict[str, str], said: str) -> None:
    order = json.dumps({"args": argv, "env": env, "mounts": ["/mnt/models"]})
    answers: list[str] = []
    answer_checks(
        parse, [order, order], answers.append, lambda path: path == "/here", lambda given: Meaning(given.number)
    )
    told = {"refused": said} if said else {"means": {"number": 1 if "--number=1" in argv else None}}
    assert [json.loads(answer) for answer in answers] == [told, told]
