"""What is measured: one line each, with our side's settings and the peer's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stages.heap import mimalloc_environment
from stages.machine import multiplies_in_bf16

WARM_UP = 2  # steps in which each side takes its memory from the system
EMBEDDED = "SmolLM2-135M-Instruct"
# fp32 weights, AdamW, and bf16 autocast where the hardware has it: the same on both sides.
BF16 = multiplies_in_bf16()
OURS = {"warmup_ratio": 0.0, "lr_scheduler_type": "constant"}
# TRL as tuned as it goes on a CPU: no recomputation, fused optimizer, no dataloader workers to wait for.
CONFIGS: dict[str, dict[str, Any]] = {
    "tuned": {"gradient_checkpointing": False, "optim": "adamw_torch_fused"},
    "default": {},
}
# Sampling under an autocast that converts the weights once, where the trainer's own does so at every token.
SAMPLED = {"generate_autocast": BF16}
# Our stages start themselves with another allocator (stages/heap.py); without it the kernel clears pages for the peer
# half of the time.
ENVIRONMENTS: dict[str, dict[str, str]] = {"tuned": mimalloc_environment(), "default": {}}


@dataclass(frozen=True)
class Work:
    """`batch` examples per step, `steps` of them, the first two of which warm up and are not counted.

    `model` is the folder of one, None the embedded one. `settings` are those of our algorithm and `overrides` of the
    rest of our side; `peer` is in both of the peer's configs, `tuned` in that one, which on a CPU takes a batch
    `microbatch` sequences at a time, as suited it best on two cores (benchmarks/README.md); None = all at once, as its
    other config does. `reward_model`: both sides begin with the same weights of one. `curve` is what shows our side's
    progress, `seed` of both sides' samples and of the order of examples.
    """

    name: str
    stage: str
    unit: str
    data: str  # hh | gsm8k | arithmetic
    role: str
    batch: int
    units_per_example: int = 1
    algorithm: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    peer: dict[str, Any] = field(default_factory=dict)
    tuned: dict[str, Any] = field(default_factory=dict)
    microbatch: int | None = None
    overrides: tuple[str, ...] = ()
    reward_model: bool = False
    curve: str = "train/loss"
    learning_rate: float = 1.0e-6
    steps: int = 5
    seed: int = 0
    bf16: bool = BF16
    model: Path | None = None
    peer_version: str = "1.16.0"
    peer_script: str = "peer.py"
    peer_environment: str = "trl"

    @property
    def model_name(self) -> str:
        return self.model.name if self.model else EMBEDDED

    @property
    def folder(self) -> str:
        """Under the cache: what is prepared is the model's own."""
        return f"{self.name}-{self.model.name}" if self.model else self.name

    @property
    def dtype(self) -> str:
        """What products are computed in, on both sides."""
        return "bfloat16" if self.bf16 else "float32"

    def peer_config(self, name: str) -> dict[str, Any]:
        """What the peer's trainer is told in its config "tuned" or "default"."""
        whole = self.batch * self.units_per_example
        best = whole if torch.cuda.is_available() else self.microbatch or whole
        size, own = (best, self.tuned) if name == "tuned" else (whole, {})
        shares = {"per_device_train_batch_size": size, "gradient_accumulation_steps": whole // size}
        return shares | self.peer | CONFIGS[name] | own


ONLINE = {
    "num_generations": 8,
    "max_new_tokens": 32,
    "rewards": {"verifier": 1.0},
    "temperature": 1.0,
    "eval_steps": 0,
}
ONLINE_PEER = {
    "num_generations": 8,
    "max_completion_length": 32,
    "temperature": 1.0,
    "beta": 0.0,
    "shuffle_dataset": False,
}
REWARD = "objective/rewards/verifier"
SCORE = "objective/rewards/reward_model"

# One completion a prompt, for TRL's PPO samples no more; both sides take a batch twice, in two minibatches each time.
PPO = {
    "num_generations": 1,
    "max_new_tokens": 32,
    "rewards": {"reward_model": 1.0},
    "temperature": 1.0,
    "kl_coef": 0.02,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
    "eval_steps": 0,
}
PPO_PEER = {
    "response_length": 32,
    "missing_eos_penalty": 1.0,
    "temperature": 1.0,
    "kl_coef": 0.02,
    "num_ppo_epochs": 2,
    "num_mini_batches": 2,
}
# Beside the config: what samples or only scores computes in bf16, which this trainer leaves in float32.
PPO_TUNED = {"frozen_bf16": BF16}
PPO_TRL: dict[str, Any] = {
    "peer_version": "1.12.0",
    "peer_script": "peer_ppo.py",
    "peer_environment": "trl-1.12",
}
GENERATE: dict[str, Any] = {"peer_version": "generate of transformers 5.23.0"}
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}

WORKS = {
    work.name: work
    for work in (
        Work("sft", "sft", "rows/s", "hh", "sft", batch=8, microbatch=1, steps=8),
        Work("reward_model", "reward_model", "pairs/s", "hh", "preference", batch=4, settings={"kind": "head"},
             reward_model=True, microbatch=1, steps=10),
        Work("dpo", "rl", "pairs/s", "hh", "preference", batch=4, algorithm="dpo", peer={"beta": 0.1},
             microbatch=1, steps=8),
        Work("kto", "rl", "completions/s", "hh", "preference", batch=4, units_per_example=2, algorithm="kto",
             peer={"beta": 0.1}, steps=8),
        Work("grpo", "rl", "completions/s", "arithmetic", "prompt", batch=4, units_per_example=8, algorithm="grpo",
             settings=ONLINE, peer=ONLINE_PEER, tuned=SAMPLED, microbatch=8, curve=REWARD),
        Work("rloo", "rl", "completions/s", "arithmetic", "prompt", batch=4, units_per_example=8, algorithm="rloo",
             settings=ONLINE | {"kl_coef": 0.0}, peer=ONLINE_PEER, tuned=SAMPLED, microbatch=8, curve=REWARD),
        Work("ppo", "rl", "episodes/s", "hh", "prompt", batch=16, algorithm="ppo", reward_model=True,
             settings=PPO, peer=PPO_PEER, tuned=PPO_TUNED, microbatch=4, curve=SCORE, **PPO_TRL),
        Work("ppo_lora", "rl", "episodes/s", "hh", "prompt", batch=16, algorithm="ppo", reward_model=True,
             settings=PPO, peer=PPO_PEER | {"lora": LORA}, tuned=PPO_TUNED, microbatch=4,
             overrides=("model.lora=true",), curve=SCORE, **PPO_TRL),
        Work("rollout", "rollout", "tokens/s", "gsm8k", "prompt", batch=16,
             settings={"num_generations": 8, "max_new_tokens": 64}, **GENERATE),
        Work("rollout_short", "rollout", "tokens/s", "arithmetic", "prompt", batch=4,
             settings={"num_generations": 8, "max_new_tokens": 32}, **GENERATE),
    )
}  # fmt: skip
