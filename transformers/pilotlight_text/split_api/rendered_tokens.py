"""What a server of tokens is sent for a prompt that has been rendered, whatever the surface. Pure."""

from __future__ import annotations

from pilotlight_protocol.generation import GenerationParameters
from pilotlight_protocol.tokens_api import GenerateTokens, sampling_params_of
from pilotlight_text.text_model import TextModel
from pilotlight_text.token_level import with_end


def generate_tokens(
    model: TextModel,
    name: str,
    request_id: str,
    prompt_ids: list[int],
    parameters: GenerationParameters,
    *,
    stream: bool,
) -> GenerateTokens:
    """The model's own sampling defaults and end are written out: a server of tokens may not apply them."""
    loaded = model.loaded()
    return GenerateTokens(
        token_ids=prompt_ids,
        sampling_params={**loaded.sampling_defaults, **sampling_params_of(with_end(parameters, loaded.end))},
        request_id=request_id,
        model=name,
        stream=stream,
        cache_salt=parameters.cache_salt,
        priority=parameters.priority,
    )
