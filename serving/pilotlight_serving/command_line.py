"""A component's command line: KServe's own arguments pass, every other unknown one is refused with the nearest name.

What would be refused at the start, and what the arguments mean, can be asked for before, from another process:
`answer_checks`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pilotlight_protocol.nearest_name import did_you_mean

IsDirectory = Callable[[str], bool]
Parse = Callable[[Sequence[str], Mapping[str, str], IsDirectory], Any]

# What KServe's controller injects, and what its SDK's `ModelServer` takes (kserve 0.21, model_server.py): a spec may
# have them for another server's sake. They change nothing here.
_KSERVE_NAMES = """
    access_log_format configure_logging enable_docs_url enable_grpc enable_latency_logging
    enable_predictor_health_check event_loop grpc_max_receive_message_length grpc_max_send_message_length grpc_port
    http_port log_config_file max_asyncio_workers max_threads model_name predictor_host predictor_protocol
    predictor_request_retries predictor_request_timeout_seconds predictor_use_ssl protocol ssl_certfile ssl_keyfile
    timeout_keep_alive workers
"""
KSERVE_ARGUMENTS = frozenset(_KSERVE_NAMES.split())


def parse_known(
    parser: argparse.ArgumentParser,
    argv: Sequence[str],
    hint: Callable[[str, str], str] = lambda name, value: "",
) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """What `parser` knows of `argv`, and the arguments of KServe's that it does not. Exits with all that are neither.

    `hint(name, value)`: what to write instead of an unknown argument that is near to none.
    """
    given, rest = parser.parse_known_args(argv)
    known = [option for action in parser._actions for option in action.option_strings]
    refused, passed = [], []
    for flag, value in _pairs(rest):
        name = flag.lstrip("-").replace("-", "_")
        if flag.startswith("--") and name in KSERVE_ARGUMENTS:
            passed.append(flag)
        else:
            refused.append(f"{flag}{did_you_mean(flag, known) or hint(name, value)}")
    if refused:
        parser.error(f"unknown argument{'s' if len(refused) > 1 else ''}: {'; '.join(refused)}")
    return given, tuple(passed)


def _pairs(words: Iterable[str]) -> list[tuple[str, str]]:
    """Flags with their values; a word that follows no flag is one by itself."""
    pairs: list[tuple[str, str]] = []
    takes_value = False
    for word in words:
        if not word.startswith("-") and takes_value:
            pairs[-1] = (pairs[-1][0], word)
            takes_value = False
            continue
        flag, equals, value = word.partition("=")
        pairs.append((flag, value))
        takes_value = word.startswith("--") and not equals
    return pairs


class Refused(ValueError):
    """Why the component would not start with its command line."""


def accepted(parse: Parse, argv: Sequence[str], environment: Mapping[str, str], is_directory: IsDirectory) -> Any:
    """What `parse` returns. Raises Refused where it would end the process."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            return parse(argv, environment, is_directory)
    except SystemExit:
        raise Refused(said.getvalue().rstrip().rpartition("error: ")[2] or "it prints its help and ends") from None


def answer_checks(
    parse: Parse,
    orders: Iterable[str],
    answer: Callable[[str], object],
    is_directory: IsDirectory,
    meaning: Callable[[Any], msgspec.Struct],
) -> None:
    """One JSON text per line: `{"args": [...], "env": {...}, "mounts": [...]}` -> `{"refused": why}`, or
    `{"means": what meaning makes of the parsed arguments}`.

    `mounts` are directories that the pod will have, whatever there is now.
    """
    for line in orders:
        order = json.loads(line)
        mounts = tuple(f"{mount}/" for mount in order["mounts"])

        def is_there(path: str, mounts: tuple[str, ...] = mounts) -> bool:
            return f"{path}/".startswith(mounts) or is_directory(path)

        try:
            told: dict[str, Any] = {"means": meaning(accepted(parse, order["args"], order["env"], is_there))}
        except Refused as error:
            told = {"refused": str(error)}
        answer(msgspec.json.encode(told).decode())
