"""The bodies of /embeddings, /rerank and /score: OpenAI's, Jina's and Cohere's fields, and vLLM's beside them. Pure.

What would change nothing here is taken (`user`); what would be answered otherwise than it was asked is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from pilotlight_protocol.errors import InvalidInput, PayloadTooLarge
from pilotlight_protocol.generation import INT32_MAX
from pilotlight_protocol.pooling import PoolingParameters
from pilotlight_text.ignored_fields import UnknownFields
from pilotlight_text.openai_api.requests import check_prompt_end, decode_body, unsupported

MAX_INPUTS = 2048
"""OpenAI's; they are read some at a time."""

TokenId = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
Limit = Annotated[int, msgspec.Meta(ge=0, le=INT32_MAX)]
_Json = dict[str, Any]
Conversation = list[_Json]
T = TypeVar("T")


class _Pooling(msgspec.Struct, kw_only=True):
    """What every kind shares; `truncate_prompt_tokens` -1 stands for the model's length."""

    model: str | None = None
    user: str | None = None
    request_id: str | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=-1, le=INT32_MAX)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None
    priority: Annotated[int, msgspec.Meta(ge=-INT32_MAX, le=INT32_MAX)] | None = None
    cache_salt: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None
    chat_template_kwargs: _Json | None = None
    padding: Literal["max_length", "do_not_pad"] | None = None
    normalize: Any = None
    mm_processor_kwargs: Any = None

    def parameters(self, dimensions: int | None = None) -> PoolingParameters:
        return PoolingParameters(
            dimensions=dimensions,
            use_activation=self.use_activation,
            priority=self.priority or 0,
            cache_salt=self.cache_salt,
        )


class EmbeddingRequest(_Pooling, kw_only=True):
    """`input`: a text, texts, token ids, lists of token ids, a conversation or conversations; a conversation may also
    stand in `messages`. Special tokens are added to texts unless told otherwise, to conversations when asked for."""

    input: str | list[str | TokenId | _Json | list[TokenId | _Json]] | None = None
    messages: list[_Json | list[_Json]] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=INT32_MAX)] | None = None
    encoding_format: Literal["float", "base64", "bytes", "bytes_only"] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    embed_dtype: str | None = None
    endianness: Literal["native", "little", "big"] | None = None
    chat_template: Any = None
    media_io_kwargs: Any = None


class _Scoring(_Pooling, kw_only=True):
    """`max_tokens_per_query`, `max_tokens_per_doc`: longer ones are cut; 0 cuts nothing."""

    max_tokens_per_query: Limit | None = None
    max_tokens_per_doc: Limit | None = None
    instruction: str | None = None


class RerankRequest(_Scoring, kw_only=True):
    query: str
    documents: str | list[str | _Json]
    top_n: Limit | None = None
    return_documents: bool | None = None
    rank_fields: Any = None
    max_chunks_per_doc: Any = None


class ScoreRequest(_Scoring, kw_only=True):
    """vLLM's four names for the two sides."""

    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None
    queries: str | list[str] | None = None
    documents: str | list[str] | None = None
    items: str | list[str] | None = None
    data_1: str | list[str] | None = None
    data_2: str | list[str] | None = None


_embedding = msgspec.json.Decoder(EmbeddingRequest)
_rerank = msgspec.json.Decoder(RerankRequest)
_score = msgspec.json.Decoder(ScoreRequest)
EMBEDDING_FIELDS: UnknownFields[EmbeddingRequest] = UnknownFields(EmbeddingRequest)
RERANK_FIELDS: UnknownFields[RerankRequest] = UnknownFields(RerankRequest)
SCORE_FIELDS: UnknownFields[ScoreRequest] = UnknownFields(ScoreRequest)

REFUSED: Mapping[str, str] = {
    "normalize": "it is 'use_activation' in vLLM 0.32",
    "mm_processor_kwargs": "this server reads text only",
    "media_io_kwargs": "this server reads text only",
    "chat_template": "a template from a client is never run; the model's own is used",
    "instruction": "pairs are read without a template",
    "rank_fields": "send each document's text",
    "max_chunks_per_doc": "a document is read as one; 'max_tokens_per_doc' cuts it",
}
_WHATEVER_IT_SAYS = ("normalize",)
"""`false` asks for something, too."""
_REFUSED_VALUES: Mapping[str, tuple[Any, str]] = {
    "padding": ("max_length", "prompts are read as long as they are"),
    "encoding_format": ("bytes", "ask for 'float' or 'base64'"),
    "endianness": ("big", "vectors are little-endian"),
}
_SIDES = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))


def read_embedding_request(body: bytes) -> EmbeddingRequest:
    """Raises InvalidInput with `param`, also for what is understood but cannot be done."""
    request = _read(_embedding, body)
    if request.encoding_format == "bytes_only":
        raise unsupported("encoding_format", "ask for 'float' or 'base64'")
    if request.embed_dtype not in (None, "float32"):
        raise unsupported("embed_dtype", "vectors are float32")
    if (request.input is None) == (request.messages is None):
        raise InvalidInput("send one of 'input' and 'messages'", param="input")
    check_prompt_end(begins=request.add_generation_prompt, continues=request.continue_final_message)
    return request


def read_rerank_request(body: bytes) -> RerankRequest:
    """Raises InvalidInput with `param`."""
    request = _read(_rerank, body)
    _refuse_variables(request)
    return request


def read_score_request(body: bytes) -> ScoreRequest:
    """Raises InvalidInput with `param`."""
    request = _read(_score, body)
    _refuse_variables(request)
    return request


def inputs_of(request: EmbeddingRequest) -> tuple[list[str | list[int]], list[Conversation]]:
    """The texts and token ids, or the conversations. Raises InvalidInput, PayloadTooLarge."""
    if request.messages is not None:
        return [], _conversations(request.messages, "messages")
    given = request.input
    if isinstance(given, str):
        return [given], []
    assert given is not None  # one of the two is there
    if not given:
        raise InvalidInput("'input' is empty: send at least one text", param="input")
    if all(type(item) is int for item in given):
        return [given], []  # type: ignore[list-item]
    _check_count(len(given), "input")
    if all(isinstance(item, str) for item in given):
        return given, []  # type: ignore[return-value]
    if all(isinstance(item, list) and item and all(type(token) is int for token in item) for item in given):
        return given, []  # type: ignore[return-value]
    return [], _conversations(given, "input")


def documents_of(request: RerankRequest) -> list[str]:
    """Raises InvalidInput, PayloadTooLarge."""
    given = [request.documents] if isinstance(request.documents, str) else request.documents
    if not given:
        raise InvalidInput("'documents' is empty: send at least one", param="documents")
    _check_count(len(given), "documents")
    return [_document(place, document) for place, document in enumerate(given)]


def pairs_of(request: ScoreRequest) -> tuple[list[str], list[str]]:
    """Both sides, as long as one another: one text is scored with each of the other side's. Raises InvalidInput."""
    given = {name for sides in _SIDES for name in sides if getattr(request, name) is not None}
    sides = next((pair for pair in _SIDES if set(pair) == given), None)
    if sides is None:
        raise InvalidInput("send 'text_1' and 'text_2', and nothing else to score", param="text_1")
    first, second = (_texts(getattr(request, name), name) for name in sides)
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise InvalidInput(
            f"'{sides[0]}' has {len(first)} texts, '{sides[1]}' {len(second)}: send one, or as many", param=sides[0]
        )
    return first, second


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    request = decode_body(decoder, body)
    for name, reason in REFUSED.items():
        value = getattr(request, name, None)
        if value or (name in _WHATEVER_IT_SAYS and value is not None):
            raise unsupported(name, reason)
    for name, (value, reason) in _REFUSED_VALUES.items():
        if getattr(request, name, None) == value:
            raise unsupported(name, reason)
    if getattr(request, "truncate_prompt_tokens", None) == 0:
        raise InvalidInput("'truncate_prompt_tokens' 0 leaves nothing to read", param="truncate_prompt_tokens")
    return request


def _refuse_variables(request: _Scoring) -> None:
    if request.chat_template_kwargs:
        raise unsupported("chat_template_kwargs", "pairs are read without a template")


def _check_count(count: int, param: str) -> None:
    if count > MAX_INPUTS:
        raise PayloadTooLarge(f"'{param}' has {count} items; at most {MAX_INPUTS} are taken", param=param)


def _conversations(given: Sequence[Any], param: str) -> list[Conversation]:
    if given and all(isinstance(message, dict) for message in given):
        return [list(given)]
    _check_count(len(given), param)
    if not given or not all(
        isinstance(messages, list) and messages and all(isinstance(message, dict) for message in messages)
        for messages in given
    ):
        raise InvalidInput(
            f"'{param}' mixes kinds, or has an empty one: send texts, token ids or messages", param=param
        )
    return list(given)


def _document(place: int, document: str | _Json) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str) or (isinstance(document, dict) and document.keys() - {"text", "id"}):
        where = f"documents[{place}]"
        raise InvalidInput(
            f"'{where}' must be a text, or an object with 'text': this server reads text only", param=where
        )
    return text


def _texts(given: str | list[str], param: str) -> list[str]:
    texts = [given] if isinstance(given, str) else given
    if not texts:
        raise InvalidInput(f"'{param}' is empty: send at least one text", param=param)
    _check_count(len(texts), param)
    return texts
