"""What things cost in the simulator, by profile: the one place where seconds are written down.

    profile   model                      where its figures are from
    cpu       340 MB bf16, compiled      measured, docs/benchmarks.md: "From zero to the first token" (less its first
                                         token on a parked engine, 50 ms) and "The weights phase of a swap"
    gpu       8B, FP8, 9 GB, one GPU     not measured by us, published: vLLM's snapshot restore 23.9 -> 9.4 s; copies at
                                         half of PCIe 5 x16 (9 GB in 0.16 s) and half of an NVMe gen 5 (0.64 s)

A stop took 2.06 s before engine hosts held their engines to the end (decision 64), and 0.11 to 0.46 s after.

For the GPU the published restore of a snapshot stands in for our fork, and the boot that it was compared with for
Knative's pod; both favour Knative, whose images and weights are taken to be on the node already.
"""

from __future__ import annotations

from dataclasses import dataclass

from pool_simulator.virtual_pool import Durations


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of added latency. `server_s`: a pod of its own, with vLLM's own server, until it can answer. `fork_s`: an
    engine out of the pool's zygote. `swap_*_s`: weights from the page cache, or from disk. `wake_s`: an engine that
    sleeps, where `sleepers` of them may in each slot. `stop_s`: until an engine's memory is free again."""

    name: str
    server_s: float
    fork_s: float
    swap_ram_s: float
    swap_disk_s: float
    loaded_s: float
    stop_s: float
    wake_s: float = 0.0
    sleepers: int = 0
    ram_models: int = 64

    def durations(self) -> Durations:
        return Durations(
            boot_s={"ram": self.fork_s, "disk": self.fork_s + self.swap_disk_s - self.swap_ram_s},
            swap_s={"ram": self.swap_ram_s, "disk": self.swap_disk_s},
            stop_s=self.stop_s,
            wake_s=self.wake_s,
            ram_models=self.ram_models,
        )


CPU = Costs("cpu", 52.3, 1.67, 0.13, 0.47, 0.005, 0.12)
GPU = Costs("gpu", 23.9, 9.4, 0.32, 1.28, 0.005, 0.5, wake_s=0.32, sleepers=2)
PROFILES = {costs.name: costs for costs in (CPU, GPU)}
