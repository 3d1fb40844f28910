"""What is measured: one line each, with our side's settings and the peer's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# SmolLM2-135M-Instruct, fp32 weights, bf16 autocast, AdamW: the same on both sides.
OURS = {"bf16": True, "warmup_ratio": 0.0, "lr_scheduler_type": "constant", "learning_rate": 1.0e-6}
# TRL as tuned as it goes on a CPU: no recomputation, fused optimizer, no dataloader workers to wait for.
TUNED = {"gradient_checkpointing": False, "optim": "adamw_torch_fused"}
DEFAULT: dict[str, Any] = {}


@dataclass(frozen=True)
class Work:
    """`batch` examples per step, `steps` of them, the first of which warms up and is not counted."""

    name: str
    stage: str
    unit: str
    data: str  # hh | arithmetic
    role: str
    batch: int
    units_per_example: int = 1
    algorithm: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    peer: dict[str, Any] = field(default_factory=dict)
    steps: int = 4
    peer_version: str = "1.16.0"


ONLINE = {
    "num_generations": 8,
    "max_new_tokens": 32,
    "rewards": {"verifier": 1.0},
    "temperature": 1.0,
    "eval_steps": 0,
}
ONLINE_PEER = {"num_generations": 8, "max_completion_length": 32, "temperature": 1.0, "beta": 0.0}

WORKS = {
    work.name: work
    for work in (
        Work("sft", "sft", "rows/s", "hh", "sft", batch=8),
        Work("reward_model", "reward_model", "pairs/s", "hh", "preference", batch=4, settings={"kind": "head"}),
        Work("dpo", "rl", "pairs/s", "hh", "preference", batch=4, algorithm="dpo", peer={"beta": 0.1}),
        Work("kto", "rl", "completions/s", "hh", "preference", batch=4, units_per_example=2, algorithm="kto",
             peer={"beta": 0.1}),
        Work("grpo", "rl", "completions/s", "arithmetic", "prompt", batch=4, units_per_example=8, algorithm="grpo",
             settings=ONLINE, peer=ONLINE_PEER),
        Work("rloo", "rl", "completions/s", "arithmetic", "prompt", batch=4, units_per_example=8, algorithm="rloo",
             settings=ONLINE | {"kl_coef": 0.0}, peer=ONLINE_PEER),
        Work("rollout", "rollout", "tokens/s", "arithmetic", "prompt", batch=4,
             peer_version="generate of transformers 5.23.0"),
    )
}  # fmt: skip
