"""What each head is asked to learn from a row: a target and a weight per label, where weight 0 means "not known"."""

from __future__ import annotations

from guardrail.training.rows import Row

UNSAFE = "unsafe"
ANSWER = "unsafe_answer"
POLITICAL = "political"
JAILBREAK = "jailbreak"
CLASSES = (
    "violence_terror",
    "hate",
    "sexual",
    "self_harm",
    "illegal",
    "fraud_misinfo",
    "privacy",
    "insult",
    "ip_commercial",
)
LABELS = (UNSAFE, ANSWER, POLITICAL, JAILBREAK, *CLASSES)
# What asks and what answers are judged apart, but most of what makes a text harmful is the same in both.
_OTHER_SIDE = 0.3

# Sets mark one class where several hold: these pairs overlap so much that a missing second mark says nothing.
OVERLAPPING = frozenset(
    {("hate", "insult"), ("insult", "hate"), ("illegal", "fraud_misinfo"), ("fraud_misinfo", "illegal")}
)


def targets(row: Row) -> tuple[list[float], list[float]]:
    """Return (targets, weights) in the order of LABELS, each of length 13 and in [0, 1].

    `unsafe` is about prompts and posts, `unsafe_answer` about answers; rows of the other side count a third there.
    Both leave political and state-security rows out (weight 0): a general policy must never block lawful
    political speech, so the heads are not taught that such text is unsafe. Borderline rows ask for 0.5. An unsafe row
    of unknown class teaches no class head, and a jailbreak whose goal is unknown teaches none either.
    """
    unsafe = {"unsafe": 1.0, "borderline": 0.5, "safe": 0.0}[row.label]
    marked = {row.cls, row.cls2} & set(LABELS)
    known = row.label == "safe" or (row.label == "unsafe" and bool(marked & set(CLASSES)))
    political = POLITICAL in marked
    attack = JAILBREAK in marked
    wanted = {UNSAFE: unsafe, ANSWER: unsafe, POLITICAL: 0.0, JAILBREAK: 0.0}
    counts = 0.0 if political and row.label != "safe" else 1.0
    answer = row.kind == "response"
    weight = {UNSAFE: counts * (_OTHER_SIDE if answer else 1.0), ANSWER: counts * (1.0 if answer else _OTHER_SIDE)}
    weight |= {POLITICAL: 1.0, JAILBREAK: 1.0}
    if row.label == "borderline" or (row.label == "unsafe" and not marked):
        # Nobody said what kind of harm this is: neither head of its own can tell yes from no.
        weight[POLITICAL] = weight[JAILBREAK] = 0.0
    elif row.label == "unsafe":
        wanted[POLITICAL] = float(political)
        wanted[JAILBREAK] = float(attack)
    for name in CLASSES:
        wanted[name] = float(row.label == "unsafe" and name in marked)
        overlaps = any((name, other) in OVERLAPPING for other in marked) and name not in marked
        # An attack's harm, where it has one, is named in cls2; what else it touches is unknown.
        unknown = (attack or political) and row.label == "unsafe" and name not in marked
        weight[name] = 1.0 if known and not overlaps and not unknown else 0.0
    return [wanted[name] for name in LABELS], [weight[name] for name in LABELS]
