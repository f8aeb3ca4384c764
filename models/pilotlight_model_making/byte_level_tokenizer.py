"""The demo model's tokenizer: byte-level BPE with ChatML's turn markers.

Responsible for training it, for its files in the Hugging Face layout and for the chat template. It knows nothing of
weights. Needs the `tokenizers` library, which the wheel's base install does not have: import this module lazily.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pilotlight_model_making.chat_corpus import Message

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
END_OF_TEXT_ID, TURN_START_ID, TURN_END_ID = 0, 1, 2
STOP_IDS = frozenset((END_OF_TEXT_ID, TURN_END_ID))
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: First code point that is kept away from the merges: characters from here on stay several tokens each, so that
#: generated text really exercises detokenizers with UTF-8 sequences that are cut by token borders.
_FIRST_UNMERGED_CODE_POINT = 0x2600


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE tokenizer; the same texts give the same tokenizer.

    Raises:
        ValueError: the texts have too few distinct words to fill `vocab_size`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((_without_unmerged(text) for text in texts), trainer)
    if tokenizer.get_vocab_size() != vocab_size:
        raise ValueError(
            f"the texts yield {tokenizer.get_vocab_size()} tokens, not {vocab_size}: add text or lower the vocabulary"
        )
    return tokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_tokens: int) -> None:
    """Write the tokenizer's files into `folder`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    special_tokens = {"bos_token": END_OF_TEXT, "eos_token": TURN_END, "pad_token": END_OF_TEXT}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_tokens,
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "additional_special_tokens": [TURN_START],
        **special_tokens,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "special_tokens_map.json", {**special_tokens, "additional_special_tokens": [TURN_START]})


def chat_text(messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """Return what `CHAT_TEMPLATE` renders, without a template engine."""
    turns = "".join(f"{TURN_START}{m.role}\n{m.content.strip()}{TURN_END}\n" for m in messages)
    return turns + (f"{TURN_START}assistant\n" if add_generation_prompt else "")


def write_json(path: Path, value: object) -> None:
    """Write one of a checkpoint's JSON files the way Hugging Face does: indented, UTF-8, with a last newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_unmerged(text: str) -> str:
    return "".join(character for character in text if ord(character) < _FIRST_UNMERGED_CODE_POINT)
