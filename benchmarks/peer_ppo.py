"""TRL's PPO on one work: run in the environment of TRL 1.12.0, the last version that has it, as peer.py is in its own.

A job holds what peer.py's does, and the reward model's folder. `frozen_bf16` in its config says that sampling and the
models that are not trained compute in bf16 too; by itself the trainer does so in its updates alone.
"""

import json
import os
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """Seconds of each update: this trainer says when one ends, and begins the next at once."""

    def __init__(self):
        self.seconds = []

    def on_train_begin(self, *_, **__):
        self.began = time.perf_counter()

    def on_step_end(self, *_, **__):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ended = time.perf_counter()
        self.seconds.append(ended - self.began)
        self.began = ended


def load_models(job, frozen_bf16):
    """Policy, reference, and from the reward model's weights the value model and the reward model."""
    frozen = torch.bfloat16 if frozen_bf16 else torch.float32
    policy = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(job["model"], dtype=frozen)
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(job["reward_model"], num_labels=1, dtype=dtype)
        for dtype in (torch.float32, frozen)
    )
    if frozen_bf16:
        autocast = torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16)
        policy.generate = autocast(policy.generate)
        value.model.forward = autocast(value.model.forward)
    return policy, reference, value, reward


def tokenized(rows, tokenizer):
    prompts = [row["prompt"] for row in rows]
    chats = [[{"role": "user", "content": each}] if isinstance(each, str) else each for each in prompts]
    return [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True) for chat in chats
    ]


def main():
    job = json.loads(Path(sys.argv[1]).read_text())
    # as `accelerate launch` does: the config's bf16 reaches nothing
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if job["bf16"] else "no"
    options = dict(job["config"])
    frozen_bf16, lora = options.pop("frozen_bf16", False), options.pop("lora", None)
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    tokenizer.pad_token = (
        tokenizer.unk_token
    )  # its own is the end token, which this trainer masks out of prompts
    policy, reference, value, reward = load_models(job, frozen_bf16)
    data = Dataset.from_list(tokenized(job["rows"], tokenizer))
    clock = Clock()
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=job["output"], use_cpu=not torch.cuda.is_available(), bf16=job["bf16"],
            total_episodes=job["steps"] * job["batch"], learning_rate=job["learning_rate"],
            lr_scheduler_type="constant", stop_token="eos", num_sample_generations=0, logging_steps=1, report_to=[],
            save_strategy="no", seed=job["seed"], disable_tqdm=True,
            **options,
        ),
        processing_class=tokenizer, model=policy, ref_model=None if lora else reference, reward_model=reward,
        value_model=value, train_dataset=data, eval_dataset=data, callbacks=[clock],
        peft_config=LoraConfig(task_type="CAUSAL_LM", **lora) if lora else None,
    )  # fmt: skip
    trainer.dataloader = DataLoader(
        data, batch_size=job["batch"], collate_fn=trainer.data_collator
    )  # in order
    trainer.train()
    scores = [entry["objective/scores"] for entry in trainer.state.log_history]
    device_memory = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"seconds": clock.seconds, "curve": scores, "device_memory": device_memory}))


if __name__ == "__main__":
    main()
