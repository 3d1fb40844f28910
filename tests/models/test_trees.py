"""The tree-packed forward against one padded row per completion through the model's own forward."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from stages.models.block import keep_less
from stages.models.hidden import backbone, pack_for, row_length
from stages.models.logprobs import completion_logprobs
from stages.models.probe import probe
from stages.packing import ROW_LENGTH
from stages.trees import Node, Tree

SHAPE = dict(  # noqa: C408
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**{k: v for k, v in SHAPE.items() if k != "head_dim"}),
    "qwen3": Qwen3Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=4),
    "gemma": GemmaConfig(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, sliding_window=4, final_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "gemma3": Gemma3TextConfig(**SHAPE, sliding_window=4, sliding_window_pattern=2, query_pre_attn_scalar=8),
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=256, resid_pdrop=0.0,
                       embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2),
}  # fmt: skip


def node(generator: torch.Generator, size: int, mask: list[bool] | bool) -> Node:
    ids = torch.randint(3, 97, (size,), generator=generator).tolist()
    return Node(ids, mask if isinstance(mask, list) else [mask] * size)


def batches() -> dict[str, list[Tree]]:
    g = torch.Generator().manual_seed(0)
    turns = [False, True, True, False, False, True, True, True]
    return {
        "sft": [Tree(node(g, p, False), [node(g, c, True)]) for p, c in [(5, 3), (9, 6), (2, 1)]],
        "pairs": [
            Tree(node(g, p, False), [node(g, c, True), node(g, d, True)])
            for p, c, d in [(7, 4, 6), (3, 5, 1)]
        ],
        "groups": [Tree(node(g, p, False), [node(g, 2 + i, True) for i in range(4)]) for p in (6, 300)],
        "multi-turn": [
            Tree(node(g, 4, False), [node(g, 8, turns)]),
            Tree(node(g, 1, False), [node(g, 8, turns)]),
        ],
        "shared prefix": [
            Tree(Node([1, 9, 9, *p], [False] * (3 + len(p))), [node(g, 3, True), node(g, 2, True)])
            for p in ([], [4, 5], [4, 6, 7])
        ],
        "runs": [
            Tree(Node([1, 9, 9, 20 + i], [False] * 4), [node(g, c, True), node(g, 40, True)])
            for i, c in enumerate((150, 100, 120, 3))
        ],
        "no prompt": [Tree(Node([], []), [node(g, 7, True)])],
    }


def padded_logprobs(model, trees: list[Tree], temperature: float) -> list[torch.Tensor]:
    """Independent: transformers' own forward with its own loss alignment, one right-padded row per completion."""
    rows = [(tree.prompt.input_ids + c.input_ids, tree.prompt.loss_mask + c.loss_mask, len(tree.prompt.input_ids))
            for tree in trees for c in tree.completions]  # fmt: skip
    length = max(len(ids) for ids, _, _ in rows)
    input_ids = torch.tensor([ids + [0] * (length - len(ids)) for ids, _, _ in rows])
    attention = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _, _ in rows])
    logits = model(input_ids=input_ids, attention_mask=attention).logits / temperature
    result = []
    for row, (ids, mask, prompt) in enumerate(rows):
        targets = [t for t in range(max(prompt, 1), len(ids)) if mask[t]]
        losses = F.cross_entropy(logits[row, [t - 1 for t in targets]], torch.tensor([ids[t] for t in targets]),
                                 reduction="none")  # fmt: skip
        result.append(-losses)
    return result


@pytest.mark.parametrize(("recompute", "bf16"), [(True, False), (False, True), (True, True)])
def test_runs_are_rows_recomputed_with_adapters_and_in_bf16_too(recompute: bool, bf16: bool):
    """As training has it: a lean model, of which adapters are trained."""
    results = []
    for in_runs in (True, False):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(CONFIGS["llama"])
        keep_less(model)
        probe(model)
        backbone(model).takes_runs = in_runs
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
        if recompute:
            adapted.train().activation_checkpointing_enable()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logprobs = completion_logprobs(adapted, batches()["runs"]).logprobs
        logprobs.sum().backward()
        gradients = [each.grad.flatten() for each in adapted.parameters() if each.grad is not None]
        results.append((logprobs.detach(), torch.cat(gradients)))
        assert (pack_for(adapted, batches()["runs"]).runs is not None) == in_runs
    close = 3e-2 if bf16 else 1e-5
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() < close * expected.norm()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("kind", batches())
def test_tree_forward_equals_padded_rows(name: str, kind: str):
    if kind == "groups" and name == "gpt2":
        CONFIGS[name].n_positions = 512
    else:
        CONFIGS[name].max_position_embeddings = 512
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    probe(model)
    assert backbone(model).takes_trees
    assert backbone(model).takes_runs == (name != "gemma2")  # whose scores are capped
    trees = batches()[kind]
    packed = pack_for(model, trees)
    assert kind != "runs" or (4 if packed.runs is None else len(packed.runs)) == 4  # three runs

    expected = torch.cat(padded_logprobs(model, trees, 0.7))
    weights = torch.linspace(-1, 2, len(expected))
    (expected * weights).sum().backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    ours = completion_logprobs(model, trees, temperature=0.7, max_tokens=1000)
    (ours.logprobs[ours.mask] * weights).sum().backward()

    torch.testing.assert_close(ours.logprobs[ours.mask], expected, rtol=1e-5, atol=1e-5)
    for parameter_name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[parameter_name], rtol=1e-5, atol=1e-5)


def test_runs_are_for_our_attention_on_a_cpu():
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"]))  # its attention changes below
    probe(model)
    assert row_length(model) is None
    assert row_length(copy.deepcopy(model).to("meta")) == ROW_LENGTH
    model.set_attn_implementation("eager")
    assert row_length(model) == ROW_LENGTH
