"""Small models of one architecture that nobody can mistake for one another, and what each must answer.

Most are float32 and random: a plain torch forward pass (no vLLM, nothing of this platform but the model's definition)
and vLLM then choose the same tokens, whatever the batch, the prefix cache or the place where a stream was taken up
again. What computes in 16 bit (random AWQ models, the trained demo models) is answered for by a freshly booted engine;
their answers are judged up to the first near-tie, where rounding may choose. All prompts begin alike and fill three KV
blocks, so that a KV cache that outlives its tenant is found at once. Twins are endpoints of two tenants on one model.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from pilotlight_model_making.awq_calibration import quantize_llama
from pilotlight_model_making.byte_level_tokenizer import STOP_IDS, TURN_START_ID
from pilotlight_model_making.checkpoint import copy_tokenizer, write_checkpoint
from pilotlight_model_making.llama import Llama, LlamaShape, initialise
from pilotlight_model_making.topics import TOPICS
from pilotlight_models import bundled_model_path

# A KV block has 128 tokens on a CPU, and nothing of a block that is not full is ever cached.
SHARED_PROMPT_TOKENS = 392
OWN_PROMPT_TOKENS = 8
PROMPTS = 2
OUTPUT_TOKENS = 24
LONG_OUTPUT_TOKENS = 96
TENANTS = 5
TRAINED = ("demo-bf16", "demo-awq")
SHAPE = LlamaShape(
    hidden_size=64,
    layers=2,
    heads=2,
    kv_heads=1,
    head_dim=32,
    intermediate_size=128,
    context_tokens=512,
    tied_embeddings=False,
)
ENGINE_ARGS = {
    "max_model_len": "512",
    "max_num_seqs": "4",
    "enforce_eager": "true",
    "kv_cache_memory_bytes": str(64 * 2**20),
}
_FIRST_PLAIN_ID = 300
# Differences of the two best logits below which rounding may choose: float32, random AWQ, trained (logits are larger).
_NEAR_TIE_FLOAT32, _NEAR_TIE_AWQ, NEAR_TIE_TRAINED = 1e-3, 0.02, 0.25

Prompt = tuple[int, ...]


@dataclass(frozen=True)
class Endpoint:
    """`answers`: `output_tokens` ids for each of `prompts`, None where only an engine can say. `judged`: how many of
    each answer are compared. `near_tie`: the margin, in nats, below which an engine's answer is not compared."""

    name: str
    folder: Path
    tenant: str
    engine_args: dict[str, str]
    prompts: tuple[Prompt, ...]
    near_tie: float
    output_tokens: int = OUTPUT_TOKENS
    answers: tuple[Prompt, ...] | None = None
    judged: tuple[int, ...] = ()
    isolation: str = "shared"
    uri: str = ""

    @property
    def model(self) -> str:
        """What the pool is asked for: the folder itself, or where the store fetches a copy of it."""
        return self.uri or str(self.folder)

    def agrees(self, prompt: int, tokens: list[int]) -> bool:
        assert self.answers is not None
        upto = self.judged[prompt]
        return len(tokens) == self.output_tokens and tuple(tokens[:upto]) == self.answers[prompt][:upto]


def make_endpoints(folder: Path, count: int, awq_count: int, long_count: int, seed: int) -> list[Endpoint]:
    """`count` endpoints with random models under `folder`, the last `awq_count` of them quantized, the first
    `long_count` with long answers; their answers are pairwise different."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    shared = [dice.randrange(_FIRST_PLAIN_ID, SHAPE.vocab_size) for _ in range(SHARED_PROMPT_TOKENS)]
    own = [
        [dice.randrange(_FIRST_PLAIN_ID, SHAPE.vocab_size) for _ in range(OWN_PROMPT_TOKENS)] for _ in range(PROMPTS)
    ]
    prompts = tuple(tuple(shared + tail) for tail in own)
    model = Llama(SHAPE)
    found = []
    for number in range(count):
        initialise(model, 1000 * seed + number)
        with torch.no_grad():
            model.lm_head.weight[sorted({*STOP_IDS, TURN_START_ID})] = 0
        is_awq = number >= count - awq_count
        name = f"churn-{number:02d}"
        endpoint = Endpoint(
            name,
            folder / name,
            f"tenant-{number % TENANTS}",
            # vLLM runs a float32 checkpoint in 16 bit unless it is told not to.
            ENGINE_ARGS if is_awq else {**ENGINE_ARGS, "dtype": "float32"},
            prompts,
            _NEAR_TIE_AWQ if is_awq else _NEAR_TIE_FLOAT32,
            LONG_OUTPUT_TOKENS if number < long_count else OUTPUT_TOKENS,
            isolation="reset" if number % 10 == 9 else "shared",
        )
        if is_awq:
            quantize_llama(model, None, endpoint.folder, SHAPE.hidden_size)
        else:
            write_checkpoint(endpoint.folder, SHAPE, model.state_dict(), torch.float32, None)
            endpoint = with_answers(endpoint, *_greedy(model, prompts, endpoint.output_tokens))
        copy_tokenizer(bundled_model_path("demo-bf16"), endpoint.folder)
        found.append(endpoint)
    return found


def trained_endpoints() -> list[Endpoint]:
    """The demo models, bf16 and AWQ, each for two tenants; one of them wants engines that nobody else has used."""
    facts = [f"Question: What is {topic}? Answer: {' '.join(answers)}" for topic, answers in TOPICS.items()]
    found = []
    for name in TRAINED:
        folder = bundled_model_path(name)
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        told = tokenizer.encode(" ".join(facts)).ids[:SHARED_PROMPT_TOKENS]
        prompts = tuple(
            tuple(told + tokenizer.encode(f" Question: What is {topic}?").ids) for topic in list(TOPICS)[:2]
        )
        for tenant, isolation in (("tenant-a", "shared"), ("tenant-b", "dedicated" if name == TRAINED[0] else "reset")):
            found.append(
                Endpoint(
                    f"{name}-{tenant}", folder, tenant, ENGINE_ARGS, prompts, NEAR_TIE_TRAINED, isolation=isolation
                )
            )
    return found


def twin(endpoint: Endpoint) -> Endpoint:
    """Another tenant's endpoint on the same model."""
    return dataclasses.replace(endpoint, name=f"{endpoint.name}-twin", tenant=f"{endpoint.tenant}-twin")


def with_answers(endpoint: Endpoint, answers: tuple[Prompt, ...], margins: tuple[list[float], ...]) -> Endpoint:
    """`margins`: nats between the two likeliest tokens, for each token of each answer."""
    judged = tuple(
        next((at for at, margin in enumerate(each) if margin < endpoint.near_tie), len(each)) for each in margins
    )
    return dataclasses.replace(endpoint, answers=answers, judged=judged)


@torch.inference_mode()  # type: ignore[untyped-decorator]  # torch's is untyped
def _greedy(
    model: Llama, prompts: tuple[Prompt, ...], tokens: int
) -> tuple[tuple[Prompt, ...], tuple[list[float], ...]]:
    """Answers to prompts of one length, and their margins."""
    ids, margins = torch.tensor(prompts), []
    for _ in range(tokens):
        best = model.lm_head(model.hidden_states(ids)[:, -1]).topk(2)
        margins.append((best.values[:, 0] - best.values[:, 1]).tolist())
        ids = torch.cat((ids, best.indices[:, :1]), dim=1)
    answers = tuple(tuple(row[len(prompts[0]) :]) for row in ids.tolist())
    return answers, tuple(map(list, zip(*margins, strict=True)))
