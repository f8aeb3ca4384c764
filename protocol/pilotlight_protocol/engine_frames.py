"""The frames an engine host speaks; `frame_codec` makes bytes of them. Three kinds of connection carry them:

    data     holder -> host  Hello  Generate  Pool  Abort  Metrics  Check
             host -> holder  Welcome  Step  Pooled  Refused  MetricsText  Checked  Failed
    control  agent -> host   Boot  Swap  Grant  Revoke  Sleep  Wake  Check  Ping  Examine  Shutdown
             host  -> agent  Progress  Booted  Swapped  SwapRefused  SwapFailed  Granted  GrantRefused  Revoked
                             Busy  Idle  Slept  Woken  Rejected  Checked  Pong  Examined  Failed
    zygote   agent -> zygote Fork                        (with two file descriptors, see `Fork`)
             zygote -> agent ZygoteReady  Forked  ForkFailed  HostExited

The holder of a lease is a predictor; one with an engine of its own is also its agent, and needs no Hello. Generation is
multiplexed by `stream`, a number the holder gives to each request; the host sends at most one `Step` per
engine step. Tags are unique over all frames, so that a frame on the wrong connection is an error and nothing else.
"""

from __future__ import annotations

import msgspec

from pilotlight_protocol.generation import GenerationParameters, TokenDelta
from pilotlight_protocol.pooling import PooledVector, PoolingInfo, PoolRequest
from pilotlight_protocol.swap_proofs import EngineState


class GenerateRequest(msgspec.Struct, array_like=True):
    """`prompt_token_ids`: int[seq], each in [0, vocab_size). `lora`: the name of a configured adapter, or None.

    `parameters.max_tokens` is None when the rest of the context may be used. `stop` strings were refused before.
    `output_tokens`: how many at the prompt's end another engine generated, which a constraint has seen.
    """

    request_id: str
    prompt_token_ids: list[int]
    parameters: GenerationParameters
    lora: str | None = None
    traceparent: str | None = None
    output_tokens: int = 0


EngineRequest = GenerateRequest | PoolRequest


class EngineInfo(msgspec.Struct, array_like=True):
    """What a running engine is; `boot_phases_s` maps phase names to seconds in the order in which they ran.

    `default_max_tokens`: the limit for a request without `max_tokens`, of the model's generation_config.json.
    `swap_path`: how its weights are exchanged on this device: "copied", "reloaded: why" (vLLM's own way, slower) or
    "none: why"; empty where nobody found out. `pooling`: what a pooling model does; None of one that generates.
    """

    max_model_len: int
    vocab_size: int
    eos_token_ids: list[int]
    block_size: int
    num_kv_blocks: int
    quantization: str
    device: str
    boot_phases_s: dict[str, float]
    default_max_tokens: int | None = None
    swap_path: str = ""
    pooling: PoolingInfo | None = None


class EngineStats(msgspec.Struct, array_like=True):
    """A snapshot the engine pushes with its steps. `kv_cache_usage` in [0, 1]; the rate is smoothed."""

    running: int = 0
    waiting: int = 0
    kv_cache_usage: float = 0.0
    generation_tokens_per_s: float = 0.0


class HostConfig(msgspec.Struct, kw_only=True):
    """What an engine host boots, and what it may use.

    `engine_args` are texts of vLLM's arguments, as `--engine_arg` takes them. `quantization`: "auto" or one of
    awq, gptq, fp8, int8, none. `loras`: (name, directory). A pool names its `slot` and where to `listen`:
    `unix:///path.sock` in a private directory, or `tcp://host:port` (port 0 lets the kernel choose; `Booted.endpoint`
    says which). `device`: `cpu:0`, `cuda:0` or `cuda:<GPU or MIG UUID>`; empty for the one there is. `cpus`: CPU
    threads of this slot, None for the machine's share. `memory_bytes`: what it may take, None for the machine's.
    `adapter_rank`: grants may bring adapters of this rank class (`adapters.py`); 0: none. `adapter`: the directory of
    the one with which everything is answered, where the engine has one holder. `swappable`: it may be swapped, so it
    finds out at its boot how. `proving`: it is booted for a proof of
    its swaps, and uses nothing that was compiled for another model.
    """

    slot: str = ""
    listen: str = ""
    model_dir: str
    model_name: str
    engine_args: dict[str, str] = msgspec.field(default_factory=dict)
    quantization: str = "auto"
    loras: list[tuple[str, str]] = msgspec.field(default_factory=list)
    device: str = ""
    cpus: int | None = None
    memory_bytes: int | None = None
    adapter_rank: int = 0
    adapter: str = ""
    swappable: bool = True
    proving: bool = False


class SwapCheck(msgspec.Struct, array_like=True):
    """The first greedy token after a fixed prompt and its logprob (natural log): equal weights give equal ones on
    the same device and kernels, so a swap can be compared with a boot of the same model."""

    token_id: int
    logprob: float


# ---- lease holder -> host


class Generate(msgspec.Struct, array_like=True, tag=1):
    stream: int
    request: GenerateRequest


class Abort(msgspec.Struct, array_like=True, tag=2):
    stream: int


class Metrics(msgspec.Struct, array_like=True, tag=3):
    call: int


class Check(msgspec.Struct, array_like=True, tag=4):
    """Answered by the thread that steps the engine, so an answer proves that it is not stuck."""

    call: int


class Pool(msgspec.Struct, array_like=True, tag=7):
    """Answered by `Pooled` or `Refused`; `stream` as of `Generate`."""

    stream: int
    request: PoolRequest


class Hello(msgspec.Struct, array_like=True, tag=6):
    """Opens a data connection. `secret` is the lease's; the host knows its sha256 only. Never log this frame."""

    lease_id: str
    secret: str


# ---- agent -> host


class Boot(msgspec.Struct, array_like=True, tag=16):
    """First frame on the control socket of a host that was started by exec; a forked one has its config already."""

    config: HostConfig


class Swap(msgspec.Struct, array_like=True, tag=17):
    """Serve another model of the same fingerprint. Every lease ends, and its requests with it.

    `generation` is the agent's number for this swap and comes back in the answer.
    """

    generation: int
    model_dir: str
    model_name: str
    loras: list[tuple[str, str]] = msgspec.field(default_factory=list)


class Adapter(msgspec.Struct, array_like=True):
    """A LoRA adapter that a lease brings. `name`: what the engine knows it by, one for each tenant and content: cached
    keys and values are found under it alone. `stamp`: of the folder with that content (`adapter.folder_stamp`)."""

    name: str
    directory: str
    stamp: str


class Grant(msgspec.Struct, array_like=True, tag=18):
    """Let the holder of a secret in; leases that are still there end, unless it is to share the engine `beside` them,
    which its own tenant's alone may, or several tenants' with an adapter each. `secret_sha256`: hex digest of the
    secret's UTF-8 bytes. When `tenant` is not the previous one, KV cache and metrics start anew. `model_name`: what the
    loaded model is called from now on, since endpoints may share one; empty: as before. `adapter`: with it every
    request of this lease is answered, and no other lease's is. Answered by `Granted` or `GrantRefused`."""

    lease_id: str
    secret_sha256: str
    tenant: str
    model_name: str = ""
    beside: bool = False
    adapter: Adapter | None = None


class Revoke(msgspec.Struct, array_like=True, tag=19):
    """End a lease: abort its requests, close its connection. Answered by `Revoked`, also when it is gone already."""

    lease_id: str
    reason: str


class Sleep(msgspec.Struct, array_like=True, tag=20):
    """vLLM's sleep level 1 (weights to pinned memory) or 2 (dropped). Answered by `Slept` or `Rejected`."""

    level: int = 1


class Wake(msgspec.Struct, array_like=True, tag=21):
    """Answered by `Woken` or `Rejected`."""


class Shutdown(msgspec.Struct, array_like=True, tag=5):
    """End at once; who holds the lease has drained or given up on its requests."""


class Ping(msgspec.Struct, array_like=True, tag=23):
    """Answered with `Pong` by the thread that reads the sockets, whatever the engine is doing."""


class Examine(msgspec.Struct, array_like=True, tag=24):
    """Tell every live tensor and the answers to fixed prompts, for a proof. Answered by `Examined`, or `Rejected` while
    the engine is leased."""


# ---- host -> lease holder and agent


class Progress(msgspec.Struct, array_like=True, tag=32):
    """A boot phase began."""

    phase: str


class Step(msgspec.Struct, array_like=True, tag=34):
    """All tokens of one engine step as (stream, delta)."""

    deltas: list[tuple[int, TokenDelta]]
    stats: EngineStats


class Pooled(msgspec.Struct, array_like=True, tag=40):
    """The vectors that one engine step finished, as (stream, vector); their requests are over."""

    vectors: list[tuple[int, PooledVector]]


class Refused(msgspec.Struct, array_like=True, tag=35):
    """The engine will not go on with this one request; `status` is the HTTP status to answer with, `param` what of the
    request is wrong."""

    stream: int
    status: int
    message: str
    param: str | None = None


class MetricsText(msgspec.Struct, array_like=True, tag=36):
    call: int
    text: bytes


class Checked(msgspec.Struct, array_like=True, tag=37):
    call: int


class Failed(msgspec.Struct, array_like=True, tag=38):
    """The last frame on this connection: why it ends. `misconfigured`: booting it again the same way would fail again.

    On a data connection it may also mean that only the lease ended.
    """

    reason: str
    misconfigured: bool = False


class Welcome(msgspec.Struct, array_like=True, tag=39):
    info: EngineInfo
    stats: EngineStats
    model_name: str


# ---- host -> agent


class Booted(msgspec.Struct, array_like=True, tag=48):
    """The engine has generated its first token and the data listener is open at `endpoint`."""

    info: EngineInfo
    endpoint: str
    swap_check: SwapCheck


class Swapped(msgspec.Struct, array_like=True, tag=49):
    """`phases_s`: drain, inspect, weights, reset, defaults, check, in seconds and in this order."""

    generation: int
    phases_s: dict[str, float]
    info: EngineInfo
    swap_check: SwapCheck


class SwapRefused(msgspec.Struct, array_like=True, tag=50):
    """Nothing was touched, the old model is still served: this host cannot be swapped to that model; boot another."""

    generation: int
    reason: str


class SwapFailed(msgspec.Struct, array_like=True, tag=51):
    """The swap broke after the first weight was touched; the host ends itself right after this frame."""

    generation: int
    reason: str


class Granted(msgspec.Struct, array_like=True, tag=52):
    """The lease's secret is accepted from now on: its holder may be told the endpoint."""

    lease_id: str


class GrantRefused(msgspec.Struct, array_like=True, tag=59):
    """Its adapter is not loaded, and nobody else has noticed. `reason` is for its holder; `status`: 400 where it never
    can be."""

    lease_id: str
    reason: str
    status: int


class Revoked(msgspec.Struct, array_like=True, tag=53):
    """Nothing of the lease runs any more and its connection is closed."""

    lease_id: str


class Busy(msgspec.Struct, array_like=True, tag=54):
    """The engine has work, after it had none."""


class Idle(msgspec.Struct, array_like=True, tag=55):
    """The engine has no work, after it had some."""


class Slept(msgspec.Struct, array_like=True, tag=56):
    pass


class Woken(msgspec.Struct, array_like=True, tag=57):
    pass


class Pong(msgspec.Struct, array_like=True, tag=60):
    pass


class Examined(msgspec.Struct, array_like=True, tag=61):
    state: EngineState


class Rejected(msgspec.Struct, array_like=True, tag=58):
    """A control frame that cannot be done, by its class's name; nothing changed. `status` as in errors.py."""

    frame: str
    status: int
    message: str


# ---- zygote


class Fork(msgspec.Struct, array_like=True, tag=64):
    """Fork a host. Two descriptors come with the first byte of this frame (SCM_RIGHTS): the host's end of its control
    socket, and where its standard output and error go. Send one Fork per `sendmsg`."""

    config: HostConfig


class ZygoteReady(msgspec.Struct, array_like=True, tag=72):
    """Everything is imported: Fork is quick from now on (and is taken before, too, it only waits)."""

    pid: int
    import_s: float


class Forked(msgspec.Struct, array_like=True, tag=73):
    slot: str
    pid: int


class ForkFailed(msgspec.Struct, array_like=True, tag=74):
    slot: str
    reason: str


class HostExited(msgspec.Struct, array_like=True, tag=75):
    """`code`: the exit code, or minus the signal that ended it. The zygote has reaped it and killed its group."""

    slot: str
    pid: int
    code: int


LeaseFrame = Hello | Generate | Pool | Abort | Metrics | Check
LeaseHostFrame = Welcome | Step | Pooled | Refused | MetricsText | Checked | Failed
AgentFrame = Boot | Swap | Grant | Revoke | Sleep | Wake | Check | Ping | Examine | Shutdown
ControlFrame = (
    Progress | Booted | Swapped | SwapRefused | SwapFailed | Granted | GrantRefused | Revoked | Busy | Idle | Slept
    | Woken | Rejected | Checked | Pong | Examined | Failed
)  # fmt: skip
ZygoteFrame = ZygoteReady | Forked | ForkFailed | HostExited
