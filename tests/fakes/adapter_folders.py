"""LoRA adapters' folders in which every weight is zero: for whoever reads no more than their headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "bias": "none"}
LAYER = "base_model.model.model.layers.3.mlp.down_proj"


def write_adapter(folder: Path, rank: int = 8) -> Path:
    """Of the demo model."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_header(folder, {f"{LAYER}.lora_A.weight": (rank, 512), f"{LAYER}.lora_B.weight": (256, rank)}, r=rank)


def write_header(folder: Path, shapes: dict[str, tuple[int, int]], **config: Any) -> Path:
    header, end = {}, 0
    for name, (rows, columns) in shapes.items():
        header[name] = {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [end, end + 2 * rows * columns]}
        end += 2 * rows * columns
    encoded = json.dumps(header).encode()
    content = struct.pack("<Q", len(encoded)) + encoded + bytes(end)
    (folder / "adapter_model.safetensors").write_bytes(content)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    return folder
