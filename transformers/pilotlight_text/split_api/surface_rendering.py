"""POST /messages/render and /responses/render: as chat's, of the surfaces that stand on chat's core."""

from __future__ import annotations

import msgspec

from pilotlight_protocol.errors import InvalidInput, PilotlightError
from pilotlight_text.conversation.conversation import Conversation
from pilotlight_text.conversation.conversations import Conversations
from pilotlight_text.split_api.rendered_tokens import generate_tokens
from pilotlight_text.text_model import TextModel
from pilotlight_wire.handlers import Reply, RequestContext

_encode = msgspec.json.Encoder().encode


async def render_message(model: TextModel, context: RequestContext) -> Reply:
    """Raises what a request for a message raises until its tokens are asked for."""
    from pilotlight_text.anthropic_api.asked_conversation import conversation_of
    from pilotlight_text.anthropic_api.requests import MESSAGE_FIELDS, messages_parameters, read_messages_request

    request, ignored = read_messages_request(context.body)
    MESSAGE_FIELDS.note(ignored, context)
    model.require(request.model)
    conversation = conversation_of(request, messages_parameters(request))
    return await _rendered(model, conversation, f"msg_{context.request_id}", bool(request.stream), context)


async def render_response(model: TextModel, context: RequestContext) -> Reply:
    """Nothing is kept and nothing kept is gone on with: half of an answer is made elsewhere."""
    from pilotlight_text.responses_api.requested_response import conversation_of
    from pilotlight_text.responses_api.requests import RESPONSE_FIELDS, in_own_words, read_responses_request

    request, ignored = read_responses_request(context.body)
    RESPONSE_FIELDS.note(ignored, context)
    model.require(request.model)
    if request.previous_response_id is not None:
        raise InvalidInput(
            "'previous_response_id' is not supported where a request is only rendered: send the items themselves",
            param="previous_response_id",
        )
    try:
        conversation = conversation_of(request, [])
        return await _rendered(model, conversation, f"resp_{context.request_id}", bool(request.stream), context)
    except PilotlightError as error:
        raise in_own_words(error) from error.__cause__


async def _rendered(
    model: TextModel, conversation: Conversation, request_id: str, stream: bool, context: RequestContext
) -> Reply:
    asked = await Conversations(model).text_request(conversation, context)
    made = generate_tokens(model, asked.model_name, request_id, asked.prompt_ids, asked.parameters, stream=stream)
    if conversation.include_stop_str_in_output:
        made.sampling_params["include_stop_str_in_output"] = True
    return Reply(_encode(made))
