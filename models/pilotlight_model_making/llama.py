"""A Llama in plain torch, with the parameter names of the Hugging Face checkpoint layout.

Responsible for the forward pass that training, calibration and tests need. It never reads or writes files, and it
is not a serving path: no KV cache, no batching of unequal lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class LlamaShape:
    """Dimensions of a Llama, all in elements. Field meanings follow Hugging Face's `LlamaConfig`."""

    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    intermediate_size: int = 512
    vocab_size: int = 2048
    context_tokens: int = 2048
    tied_embeddings: bool = True
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5

    def parameter_count(self) -> int:
        attention = self.hidden_size * self.head_dim * (self.heads + self.kv_heads) * 2
        block = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.layers * block + embeddings + self.hidden_size


class RMSNorm(nn.Module):  # type: ignore[misc]
    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


class Attention(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden_size, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden_size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            projection(x).view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        repeats = self.shape.heads // self.shape.kv_heads
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.norm_epsilon)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):  # type: ignore[misc]
    """Everything under the `model.` prefix of a checkpoint."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden_size, shape.norm_epsilon)


class Llama(nn.Module):  # type: ignore[misc]
    """Causal language model: `input_ids: int64[batch, seq]` to `logits: float[batch, seq, vocab]`."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        if shape.tied_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def blocks(self) -> Iterator[Block]:
        for block in self.model.layers:
            assert isinstance(block, Block)
            yield block

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.lm_head(self.hidden_states(input_ids))

    def hidden_states(self, input_ids: Tensor) -> Tensor:
        """Return the last hidden state after the final norm, `float[batch, seq, hidden]`."""
        cos, sin = rotary_tables(self.shape, input_ids.shape[1])
        x = self.model.embed_tokens(input_ids)
        for block in self.blocks():
            x = block(x, cos, sin)
        return self.model.norm(x)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def greedy(self, input_ids: list[int], max_tokens: int, stop_ids: frozenset[int] = frozenset()) -> list[int]:
        """Return the greedy continuation of a prompt, without the stop token. Quadratic in length: for checks."""
        ids = list(input_ids)
        for _ in range(max_tokens):
            logits = self.lm_head(self.hidden_states(torch.tensor([ids]))[:, -1])
            next_id = int(logits.argmax())
            if next_id in stop_ids:
                break
            ids.append(next_id)
        return ids[len(input_ids) :]


def initialise(model: Llama, seed: int) -> None:
    """Draw all weights anew: normal with deviation 1/sqrt(fan in), residual outputs smaller by the depth (GPT-2)."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.ones_(parameter)
            continue
        deviation = 0.02 if name == "model.embed_tokens.weight" else parameter.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            deviation /= (2 * model.shape.layers) ** 0.5
        nn.init.normal_(parameter, std=deviation, generator=generator)


def rotary_tables(shape: LlamaShape, length: int) -> tuple[Tensor, Tensor]:
    """Return cos and sin, each `float32[length, head_dim]`, in the half-split order that Llama checkpoints use."""
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.rope_theta**-exponents)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
