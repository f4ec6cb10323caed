"""What guard models' categories are to us: labels that policies listen to.

A category that no label of ours stands for says only "unsafe": an incident never gets a graver name than its own.
Political speech and tricks on the model are findings of their own, which only policies that name them hear.
"""

from __future__ import annotations

OWN = frozenset({"political", "jailbreak"})

QWEN3GUARD = {
    "Violent": "violence_terror",
    "Non-violent Illegal Acts": "illegal",
    "Sexual Content or Sexual Acts": "sexual",
    "PII": "privacy",
    "Suicide & Self-Harm": "self_harm",
    "Unethical Acts": "hate",
    "Politically Sensitive Topics": "political",
    "Copyright Violation": "ip_commercial",
    "Jailbreak": "jailbreak",
}
"""Qwen3Guard-Gen's categories (its card, "Safety Policy"; `Jailbreak` for prompts only)."""

LLAMA_GUARD = {
    "S1": "violence_terror",
    "S2": "illegal",
    "S3": "sexual",
    "S4": "sexual",
    "S5": "unsafe",
    "S6": "unsafe",
    "S7": "privacy",
    "S8": "ip_commercial",
    "S9": "violence_terror",
    "S10": "hate",
    "S11": "self_harm",
    "S12": "sexual",
    "S13": "fraud_misinfo",
    "S14": "illegal",
}
"""Llama Guard 3's and 4's hazards (their cards, after MLCommons): S5 defamation, S6 specialised advice, S13 elections
(false information about how to vote), S14 abuse of a code interpreter."""

GRANITE_GUARDIAN = {
    "harm": "unsafe",
    "social_bias": "hate",
    "profanity": "insult",
    "sexual_content": "sexual",
    "unethical_behavior": "illegal",
    "violence": "violence_terror",
    "jailbreak": "jailbreak",
}
"""Granite Guardian's risk names that are about what a text says (its cards; others are about retrieval and tools)."""

CRITERIA = {
    "harm": "It does or asks for harm of any kind: violence, crime, hate, sexual content, self-harm, abuse.",
    "social_bias": "It looks down on people for the group that they belong to.",
    "profanity": "It uses vulgar words or insults.",
    "sexual_content": "It is sexually explicit.",
    "unethical_behavior": "It does or asks for what breaks the law or common moral rules.",
    "violence": "It promotes or describes bodily harm to people, groups or animals.",
    "jailbreak": "It tries to trick a model into ignoring its rules.",
}
"""What each of those risks is, in our words, for the models that are told in a message."""
