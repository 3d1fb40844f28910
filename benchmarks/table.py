"""README's table out of a file of results: `python -m benchmarks.table benchmarks/results/<file>.json [MODEL]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.works import EMBEDDED

HEAD = """| | Treeline | MFU | tuned TRL | speed / tuned | / defaults | peak memory | memory / tuned | / defaults |
|---|---|---|---|---|---|---|---|---|"""
LABELS = {
    "sft": "SFT, 8 rows of HH-RLHF a step",
    "reward_model": "Reward model, 4 pairs of HH-RLHF",
    "dpo": "DPO, 4 pairs of HH-RLHF",
    "kto": "KTO, the same pairs as 8 completions",
    "rollout": "Sampling, 16 questions of GSM8K, 8 completions each, up to 64 tokens",
    "rollout_short": "Sampling, 4 sums, 8 completions each, up to 32 tokens",
    "grpo": "GRPO, 4 sums, 8 completions each, up to 32 tokens",
    "rloo": "RLOO, the same",
    "ppo": "PPO on 16 dialogues of HH-RLHF, all weights",
    "ppo_lora": "PPO, the same, LoRA on one backbone",
}


def table(results: list[dict[str, Any]], model: str = EMBEDDED) -> str:
    """Markdown: a row for each work that was measured with `model`, in the order of LABELS."""
    found = {
        (result["work"], result["peer_config"]): result
        for result in results
        if result.get("model", EMBEDDED) == model
    }
    rows = [row(label, name, found) for name, label in LABELS.items() if (name, "tuned") in found]
    return "\n".join([HEAD, *rows])


def row(label: str, name: str, found: dict[tuple[str, str], dict[str, Any]]) -> str:
    speed, memory = found[name, "tuned"], found[f"{name}_memory", "tuned"]
    default_speed, default_memory = (found.get((key, "default")) for key in (name, f"{name}_memory"))
    cells = [
        label,
        f"{number(speed['ours'])} {speed['unit']}",
        f"{speed['mfu']:.2f}" if "mfu" in speed else "-",
        number(speed["peer"]),
        spread(speed),
        spread(default_speed) if default_speed else "-",
        f"{memory['ours']:.1f} GiB",
        f"{memory['ratio']:.2g}",
        f"{default_memory['ratio']:.2g}" if default_memory else "-",
    ]
    return f"| {' | '.join(cells)} |"


def spread(result: dict[str, Any]) -> str:
    """The median ratio, and the rounds' lowest and highest where they are not the same."""
    median, lowest, highest = (f"{value:.2g}" for value in (result["ratio"], *result["spread"]))
    return median if lowest == highest else f"{median} ({lowest}-{highest})"


def number(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def main() -> None:
    print(table(json.loads(Path(sys.argv[1]).read_text()), *sys.argv[2:]))


if __name__ == "__main__":
    main()
