"""A real, tiny guard model for tests: transformers' Qwen3, a byte-level tokenizer, and seconds of training.

It says that a text with "bomb" is unsafe and violent, one with "election" controversial and political, others safe.
"""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from guardrail.inference.guardmodels import GUARD_MODELS, Exchange, GuardModel

FRAMES = {
    "qwen3guard": ("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
    "llama-guard-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
ANSWERS = {
    "qwen3guard": {
        "bomb": "Safety: Unsafe\nCategories: Violent",
        "election": "Safety: Controversial\nCategories: Politically Sensitive Topics",
        "": "Safety: Safe\nCategories: None",
    },
    "llama-guard-3": {"bomb": "unsafe\nS1,S9", "": "safe"},
}
# A template's own last line break is dropped: that of the frame is written as an expression.
CHAT = {
    "qwen3guard": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\\n' }}"
    ),
    "llama-guard-3": (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
        "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    ),
}
STEPS = 200
NOUNS = ("cake", "lamp")
FORMS = ["how do I make a {}", "tell me about the {}", "what is a {}", "write a poem about my {}", "{}"]


def texts(template: str) -> list[tuple[str, str]]:
    """What it is trained on: a text and its answer."""
    answers = ANSWERS[template]
    rows = []
    for form in FORMS:
        for noun in (*NOUNS, *answers):
            rows.append((form.format(noun or "day"), answers.get(noun, answers[""])))
    return rows


def chat_prompt(template: str, messages: list[dict[str, str]]) -> str:
    """What the model's own template makes of a conversation."""
    from jinja2 import Template

    return Template(CHAT[template]).render(messages=messages)


def brief(template: str) -> GuardModel:
    """The guard model `template` with a prompt for completions that is only the text: a tenth of the tokens."""
    return replace(GUARD_MODELS[template], turn="$prompt", answer_turn="$prompt\n$answer")


def write_guard(folder: Path, template: str, guard: GuardModel | None = None) -> Path:
    """Train a guard model that speaks as `template` does, through both endpoints, and write it as Hugging Face does.

    `guard` stands in the place of what is known of `template`.
    """
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    guard = guard or GUARD_MODELS[template]
    pairs = []
    for text, answer in texts(template):
        for exchange in (Exchange(text), Exchange("hello", text)):
            pairs.append((chat_prompt(template, guard.messages(exchange, "harm")), answer))
        pairs.append((guard.prompt(Exchange(text), "harm"), answer.removeprefix(guard.mark)))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = list(FRAMES[template])
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([prompt + answer for prompt, answer in pairs], trainer)
    end = tokenizer.token_to_id(special[-1])

    torch.manual_seed(1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # steps are so small that threads wait for each other most of the time
    config = Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    model = Qwen3ForCausalLM(config)
    rows = []
    for prompt, answer in pairs:
        before, after = tokenizer.encode(prompt).ids, tokenizer.encode(answer).ids
        rows.append(([*before, *after, end], [-100] * len(before) + [*after, end]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    dice = random.Random(1)
    for _ in range(STEPS):
        batch = dice.sample(rows, 12)
        longest = max(len(ids) for ids, _ in batch)
        ids = torch.tensor([row + [end] * (longest - len(row)) for row, _ in batch])
        labels = torch.tensor([row + [-100] * (longest - len(row)) for _, row in batch])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row, _ in batch])
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": special[-1],
        "pad_token": special[-1],
        "chat_template": CHAT[template],
        "model_max_length": 1024,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder
