"""From a conversation to its prompt, and from the model's text to the parts of its answer.

Responsible for which parser reads the choices and for what the engine is asked for. It must not know how a surface
writes what it takes and gives. What only conversations with tools or reasoning need is imported when they come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from pilotlight_protocol.errors import InvalidInput
from pilotlight_text.answer_parts.parts import ContentText
from pilotlight_text.conversation import constraint_field
from pilotlight_text.conversation.choices import ChoiceDelta, WholeAnswer, WholeChoice, extend
from pilotlight_text.conversation.conversation import Conversation, TemplateOptions
from pilotlight_text.detokenization.text_stream import Piece, TextStream, Usage
from pilotlight_text.ignored_fields import note_unseen
from pilotlight_text.text_model import LoadedText, TextModel, TextRequest, add_facts, timed
from pilotlight_wire.handlers import RequestContext
from pilotlight_wire.request_time import passed_on

if TYPE_CHECKING:
    from pilotlight_text.conversation.choice_reader import ChoiceReader

PROMPT_END_CHARS = 256
LOOSE_HEADER = "x-pilotlight-loose"
"""Names what asked to be strict and is not held to it, as nothing can be for this model's way of writing calls."""


class ConversationAnswer:
    """An answer under way. Close it in `finally`. Where it `is_plain`, all `text` is content, and `text.pieces()` may
    be read instead of `deltas()`. `prompt_text` and `prompt_ids`: what the conversation became."""

    def __init__(
        self,
        text: TextStream,
        readers: Sequence[ChoiceReader],
        prompt_text: str,
        prompt_ids: list[int],
        loaded: LoadedText,
    ) -> None:
        self.text = text
        self._loaded = loaded
        self.prompt_text = prompt_text
        self.prompt_ids = prompt_ids
        self._readers = readers

    @property
    def is_plain(self) -> bool:
        return not self._readers

    async def deltas(self) -> list[ChoiceDelta]:
        """What has come since the last call, one per choice at most; an empty list at the end."""
        pieces = await self.text.pieces()
        if self._readers:
            return [self._readers[piece.index].read(piece) for piece in pieces]
        return [_plain_delta(piece) for piece in pieces]

    async def usage(self) -> Usage:
        """Of all of it, when it has ended."""
        usage = self.text.usage()
        return await _with_reasoning(usage, self._readers, self._loaded) if self._readers else usage

    async def close(self) -> None:
        await self.text.close()


class Conversations:
    def __init__(self, model: TextModel) -> None:
        self._model = model

    async def start(self, conversation: Conversation, context: RequestContext) -> ConversationAnswer:
        """Returns when the answer has started. Raises InvalidInput, and what the source does."""
        prompt_text, request, readers = await self._prepared(conversation, context)
        try:
            text = await self._model.stream(request)
        except InvalidInput as refused:
            constraint_field.rename(refused, conversation.constraint_field)
            raise
        add_facts(context, [text.facts])
        return ConversationAnswer(text, readers, prompt_text, request.prompt_ids, self._model.loaded())

    async def collect(self, conversation: Conversation, context: RequestContext) -> WholeAnswer:
        if conversation.parameters.logprobs is not None and not conversation.include_reasoning:
            return await self._collect_deltas(conversation, context)  # which log-probabilities are shown is seen there
        prompt_text, request, readers = await self._prepared(conversation, context)
        try:
            completion = await self._model.complete(request)
        except InvalidInput as refused:
            constraint_field.rename(refused, conversation.constraint_field)
            raise
        add_facts(context, [completion.facts])
        choices = [
            readers[piece.index].whole(piece) if readers else _plain_choice(piece) for piece in completion.choices
        ]
        usage = completion.usage
        if readers:
            usage = await _with_reasoning(usage, readers, self._model.loaded())
        return WholeAnswer(choices, usage, request.prompt_ids, prompt_text, completion.prompt_logprobs)

    async def _collect_deltas(self, conversation: Conversation, context: RequestContext) -> WholeAnswer:
        answer = await self.start(conversation, context)
        choices: dict[int, WholeChoice] = {}
        try:
            while deltas := await answer.deltas():
                for delta in deltas:
                    extend(choices, delta)
        finally:
            await answer.close()
        whole = [choices[index] for index in sorted(choices)]
        return WholeAnswer(
            whole, await answer.usage(), answer.prompt_ids, answer.prompt_text, answer.text.prompt_logprobs
        )

    async def prompt_ids(self, conversation: Conversation, context: RequestContext) -> list[int]:
        """The prompt's tokens: int[seq], also of one that is too long to be answered. Raises InvalidInput."""
        with timed(context, "tokenize"):
            prompt = await self._prompt_text(conversation, context)
            return await self._model.loaded().codec.tokens_of(
                prompt, add_special_tokens=conversation.template.add_special_tokens, param="messages"
            )

    async def text_request(self, conversation: Conversation, context: RequestContext) -> TextRequest:
        """What the model is asked: the prompt's tokens, and the parameters with what the answer is held to."""
        return (await self._prepared(conversation, context))[1]

    async def _prepared(
        self, conversation: Conversation, context: RequestContext
    ) -> tuple[str, TextRequest, Sequence[ChoiceReader]]:
        prompt, prompt_ids = await self._prompt(conversation, context)
        answer_format = self._model.loaded().answer_format
        request = TextRequest(
            conversation.model_name,
            context.request_id,
            prompt_ids,
            conversation.parameters,
            passed_on(context),
            include_stop_str_in_output=conversation.include_stop_str_in_output,
            skip_special_tokens=conversation.skip_special_tokens,
            return_token_ids=conversation.return_token_ids,
        )
        if not (conversation.tools and conversation.calls_tools) and (
            answer_format is None or not answer_format.reasons
        ):
            return prompt, request, ()
        from pilotlight_text.conversation.answer_plan import (  # only where an answer has parts
            answer_plan,
            require_shown,
        )
        from pilotlight_text.conversation.choice_reader import ChoiceReader

        if conversation.calls_tools:
            require_shown((await self._model.loaded().template.traits(tools=True)).shows_tools, conversation)
        plan = answer_plan(conversation, answer_format, prompt[-PROMPT_END_CHARS:])
        if plan.loose_strict:
            context.response_headers[LOOSE_HEADER] = "tools"
        parameters = structs.replace(conversation.parameters, structured_outputs=plan.outputs)
        request = replace(request, parameters=parameters)
        if plan.new_parser is None:
            return prompt, request, ()
        if answer_format is not None and answer_format.shows_special_tokens:
            request = replace(request, skip_special_tokens=False)
        return prompt, request, [ChoiceReader(plan.new_parser(), conversation) for _ in range(parameters.n)]

    async def _prompt(self, conversation: Conversation, context: RequestContext) -> tuple[str, list[int]]:
        with timed(context, "tokenize"):
            prompt = await self._prompt_text(conversation, context)
            return prompt, await self._model.loaded().codec.encode(
                prompt,
                add_special_tokens=conversation.template.add_special_tokens,
                param="messages",
                truncation=conversation.truncation,
            )

    async def _prompt_text(self, conversation: Conversation, context: RequestContext) -> str:
        loaded, options = self._model.loaded(), conversation.template
        check_chars = partial(loaded.codec.check_chars, param="messages") if conversation.truncation is None else None
        text = await loaded.template.render(
            conversation.messages,
            tools=_template_tools(conversation),
            documents=options.documents,
            reasoning_effort=options.reasoning_effort,
            add_generation_prompt=options.add_generation_prompt and not options.continue_final_message,
            continue_final_message=options.continue_final_message,
            variables=options.variables,
            check_chars=check_chars,
        )
        unseen = await loaded.template.unseen(
            conversation.messages,
            text,
            tools=bool(conversation.tools),
            documents=bool(options.documents),
            reasoning_effort=options.reasoning_effort is not None,
            variables=options.variables or (),
        )
        unread = dict.fromkeys(name for tool in conversation.tools for name in tool.unread)
        note_unseen([*(_called(name, options) for name in unseen), *unread], context)
        return text


async def _with_reasoning(usage: Usage, readers: Sequence[ChoiceReader], loaded: LoadedText) -> Usage:
    if loaded.answer_format is None or not loaded.answer_format.reasons:
        return usage
    tokens = 0
    for thought in filter(None, (reader.reasoning for reader in readers)):
        tokens += len(await loaded.codec.tokens_of(thought, add_special_tokens=False, param="messages"))
    return structs.replace(usage, reasoning_tokens=min(tokens, usage.completion_tokens))


def _called(name: str, options: TemplateOptions) -> str:
    """As the request calls it, which has its messages in another order where it calls them something else."""
    return options.called.get(name) or options.called.get(name.partition("[")[0]) or name


def _template_tools(conversation: Conversation) -> list[dict[str, Any]] | None:
    if not conversation.tools:
        return None
    from pilotlight_text.conversation.tools import template_tools

    return template_tools(conversation.tools)


def _plain_delta(piece: Piece) -> ChoiceDelta:
    parts = [ContentText(piece.text)] if piece.text else []
    return ChoiceDelta(piece.index, [*parts], piece.logprobs, piece.finish_reason, piece.stop_reason, piece.token_ids)


def _plain_choice(piece: Piece) -> WholeChoice:
    parts = [ContentText(piece.text)] if piece.text else []
    return WholeChoice(piece.index, [*parts], piece.end_reason(), piece.logprobs, piece.stop_reason, piece.token_ids)
