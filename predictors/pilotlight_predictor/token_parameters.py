"""Parameters as they come to a server of tokens: V2's own are taken out, what only text has is refused. Pure."""

from __future__ import annotations

from typing import Any

from pilotlight_protocol.errors import InvalidInput
from pilotlight_protocol.generation import GenerationParameters, parse_parameters


def parameters_from(raw: dict[str, Any]) -> GenerationParameters:
    """V2 parameters without the protocol's own."""
    return tokens_only(parse_parameters(v2_parameters(raw)))


def tokens_only(parameters: GenerationParameters) -> GenerationParameters:
    """Strings are refused, for tokens are all that is seen here; so are choices that cannot differ, which the
    transformer makes of one."""
    if parameters.stop:
        raise InvalidInput(
            "stop strings are found in text, which the transformer does; send 'stop_token_ids' here, "
            "or the request with 'stop' to the transformer",
            param="stop",
        )
    if parameters.bad_words:
        raise InvalidInput(
            "words are found in text, which the transformer does; send 'bad_words_token_ids' here, "
            "or the request with 'bad_words' to the transformer",
            param="bad_words",
        )
    if parameters.n > 1 and parameters.is_greedy:
        raise InvalidInput(
            "parameter 'n' must be 1 when 'temperature' is 0 (greedy): all choices would be equal", param="n"
        )
    return parameters


def v2_parameters(raw: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if name != "binary_data_output"}
