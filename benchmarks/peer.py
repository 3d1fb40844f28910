"""TRL on one work: run in TRL's own environment as `python benchmarks/peer.py <job.json>`; prints one line of JSON.

A job holds the work, the ordered rows, the model's folder and what the trainer's config is to say; where it
holds tokens, they take the place of what the trainer makes of the rows.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
    SFTConfig,
    SFTTrainer,
)

from stages.rewards.verifiers import numeric

TRAINERS = {
    "sft": (SFTTrainer, SFTConfig), "reward_model": (RewardTrainer, RewardConfig), "dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig), "grpo": (GRPOTrainer, GRPOConfig), "rloo": (RLOOTrainer, RLOOConfig),
}  # fmt: skip


class Clock(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.began)


def dataset(work, rows):
    if work == "sft":
        return [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    if work == "kto":  # good, bad, good, bad: a step has as many of each as on the other side
        sides = (("chosen", True), ("rejected", False))
        return [
            {"prompt": r["prompt"], "completion": r[side], "label": label}
            for r in rows
            for side, label in sides
        ]
    if work in ("grpo", "rloo"):
        return [{"prompt": [{"role": "user", "content": r["prompt"]}], "answer": r["answer"]} for r in rows]
    return [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]


def right(completions, answer, **_):
    """The verifier of our side."""
    return numeric([], [completion[0]["content"] for completion in completions], answer)


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    work = job["work"]
    trainer_class, config_class = TRAINERS[work]
    online = work in ("grpo", "rloo")
    options = dict(job["config"])
    generate_autocast = options.pop("generate_autocast", False)
    config = config_class(
        output_dir=job["output"], use_cpu=not torch.cuda.is_available(), bf16=job["bf16"], max_steps=job["steps"],
        learning_rate=job["learning_rate"], lr_scheduler_type="constant", logging_steps=1, report_to=[],
        save_strategy="no", seed=job["seed"], disable_tqdm=True, **options,
    )  # fmt: skip
    kind = AutoModelForSequenceClassification if work == "reward_model" else AutoModelForCausalLM
    extra = {"num_labels": 1} if work == "reward_model" else {}
    folder = job["reward_model"] if work == "reward_model" else job["model"]  # with the same new head
    model = kind.from_pretrained(folder, dtype=torch.float32, **extra)
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    # Its own is the end token, which a classifier would then take for padding.
    tokenizer.pad_token = tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id
    if generate_autocast:
        # its own autocast is of the forward, and converts the weights again at every token
        autocast = torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)
        model.generate = autocast(model.generate)
    clock = Clock()
    reward = {"reward_funcs": right} if online else {}
    trainer = trainer_class(
        model=model, args=config, train_dataset=Dataset.from_list(dataset(work, job["rows"])),
        processing_class=tokenizer, callbacks=[clock], **reward,
    )  # fmt: skip
    if not online:  # those have a sampler that repeats prompts
        trainer._get_train_sampler = lambda data=None: SequentialSampler(data or trainer.train_dataset)
    if job["tokens"]:
        trainer.train_dataset = Dataset.from_list(job["tokens"])
    trainer.train()
    shown = "reward" if online else "loss"
    curve = [entry[shown] for entry in trainer.state.log_history if shown in entry]
    device_memory = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"seconds": clock.seconds, "curve": curve, "device_memory": device_memory}))


if __name__ == "__main__":
    main()
