"""What of OpenAI's and vLLM's requests is not done here: fields that are refused by name, and those without effect.

Pure data; `docs/reference.md` shows it, and a test holds it against the fields that vLLM and OpenAI have. A field that
asks for nothing (null, false, 0, empty) is never refused.
"""

from __future__ import annotations

from collections.abc import Mapping

REFUSED: Mapping[str, str] = {
    "audio": "this server generates text only",
    "chat_template": "a template from a client is never run; the model's own is used",
    "ec_transfer_params": "nothing is handed between engines here",
    "function_call": "send 'tool_choice' instead, its successor",
    "functions": "send 'tools' instead, its successor",
    "kv_transfer_params": "nothing is handed between engines here",
    "logits_processors": "code from a client is never run; 'logit_bias', 'bad_words' and 'allowed_token_ids' are there",
    "moderation": "answers are not moderated here",
    "prompt_embeds": "prompts are text or token ids",
    "suffix": "inserting before a suffix is not available",
    "thinking_token_budget": "reasoning cannot be cut here; 'max_tokens' bounds the answer with it",
    "use_beam_search": "beam search is not available; 'n' asks for several samples",
    "vllm_xargs": "no extension of the engine is there to take them",
    "watermarking": "answers are not watermarked here",
    "web_search_options": "there is no web search here; offer it as one of 'tools'",
}
ASKS_FOR_NOTHING: Mapping[str, object] = {"thinking_token_budget": -1}
"""Values besides null, false, 0 and empty ones; a budget of 0 is one."""

WITHOUT_EFFECT: Mapping[str, str] = {
    "length_penalty": "vLLM's, of beam search only",
    "media_io_kwargs": "of images and sound, which are refused",
    "metadata": "kept by nobody",
    "mm_payload": "of images and sound, which are refused",
    "mm_processor_kwargs": "of images and sound, which are refused",
    "prediction": "makes an answer faster, not another one",
    "prompt_cache_key": "prefixes are cached per endpoint and tenant; 'cache_salt' keeps them apart",
    "prompt_cache_options": "prefixes are cached as long as there is room",
    "prompt_cache_retention": "prefixes are cached as long as there is room",
    "return_mm_kwargs": "of images and sound, which are refused",
    "return_token_offsets": "of vLLM's render routes only",
    "routed_experts_prompt_start": "routed experts are not returned",
    "safety_identifier": "users are not told apart",
    "service_tier": "there is one",
    "session_id": "requests of a session find their prefix without it",
    "spaces_between_special_tokens": "a text has the spaces that the tokenizer's decoder writes",
    "store": "answers are not stored",
    "stream_options.include_obfuscation": "nothing is padded",
    "user": "users are not told apart",
    "verbosity": "models that are served here know no such wish; say it in the prompt",
}


def asks_for_something(name: str, value: object) -> bool:
    """Whether a field of REFUSED is more than a client's way to say nothing."""
    if name in ASKS_FOR_NOTHING:
        return value != ASKS_FOR_NOTHING[name]
    return bool(value)
