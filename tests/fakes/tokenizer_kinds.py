"""A small tokenizer of each kind that models have, made of a few sentences."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "naïve café — 你好，世界 😀👍🏽 \n\ttabs  and   spaces",
    "Ünïcödé İstanbul ßtraße",
    'def f(x): return {"a": x[0]}',
] * 4


@cache
def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("é", special=False), AddedToken("<你>", special=False)])
    return tokenizer


@cache
def byte_fallback(*, strip: bool, fuse: bool = True) -> Tokenizer:
    """Llama 2's scheme: BPE over SentencePiece text whose unknown characters fall back to bytes."""
    bytes_vocab = {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, **bytes_vocab}
    for token in ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁t", "he", "▁the", "▁a", "▁▁"]:
        vocab[token] = len(vocab)
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("▁", "a"), ("▁", "▁")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback()]
    stages += [decoders.Fuse()] if fuse else []
    stages += [decoders.Strip(" ", 1, 0)] if strip else []
    tokenizer.decoder = decoders.Sequence(stages)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


@cache
def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@cache
def word_pieces() -> Tokenizer:
    """BERT's: lower case, and a text between two tokens of its own."""
    words = ["[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz!", *(f"##{letter}" for letter in "abcdefghij")]
    words += ["the", "quick", "##ing", "fox", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


EXACT: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-fallback": lambda: byte_fallback(strip=True),
    "byte-fallback without strip": lambda: byte_fallback(strip=False),
    "byte-fallback without fuse": lambda: byte_fallback(strip=False, fuse=False),
}
ALL = EXACT | {"metaspace unigram": unigram, "word pieces": word_pieces}
