"""The classifier at somebody else's server that the settings name: text-embeddings-inference's, or a guard model's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guardrail.errors import SettingsError
from guardrail.resources import model_path
from guardrail.sections import ClassifierSettings
from guardrail.settings import Settings

if TYPE_CHECKING:
    from guardrail.inference.card import ModelCard
    from guardrail.protocols import Classifier


def served_classifier(settings: Settings) -> tuple[Classifier, ModelCard]:
    """The client for `[classifier] engine` tei or openai, not yet started, and what its labels are for.

    Opens no connection. Raises SettingsError for what is missing or does not fit.
    """
    return _tei(settings) if settings.classifier.engine == "tei" else _guard_model(settings)


def is_shipped_model(settings: Settings) -> bool:
    """Whether the classifier is the model that comes with the package, for which the shipped policies are written."""
    chosen, shipped = settings.classifier, ClassifierSettings()
    return chosen.engine == shipped.engine and chosen.model == shipped.model and not chosen.labels


def _tei(settings: Settings) -> tuple[Classifier, ModelCard]:
    from guardrail.inference.blend import blended
    from guardrail.inference.card import LabelUse, ModelCard, load_card
    from guardrail.inference.remote import TEI_BATCH, TEI_WINDOW, RemoteClassifier

    chosen = settings.classifier
    if chosen.labels:
        uses = {
            label: LabelUse(category, block=chosen.threshold) for label, category in chosen.labels.items() if category
        }
        if not uses:
            raise SettingsError("classifier.labels: every label is ignored (''); expected a category for one at least")
        card = ModelCard(id=f"{chosen.url}/predict", title="A classifier at a TEI server", labels=uses)
    else:
        # The server has the weights; thresholds and categories are in the card of the same model here.
        folder = model_path(chosen.model)
        card = load_card(folder)
    client = RemoteClassifier(
        chosen.url,
        tuple(card.labels),
        deadline=chosen.deadline,
        activation=chosen.activation,
        window=chosen.window or TEI_WINDOW,
        batch=TEI_BATCH,
        key=settings.secrets.classifier_api_key,
    )
    return (client if chosen.labels else blended(client, card, folder)), card


def _guard_model(settings: Settings) -> tuple[Classifier, ModelCard]:
    from guardrail.inference.guardmodels import GUARD_MODELS, card
    from guardrail.inference.openai import WINDOW, GuardModelClassifier

    chosen = settings.classifier
    guard = GUARD_MODELS[chosen.template]
    if chosen.risks != ("harm",) and not guard.by_risk:
        raise SettingsError(
            f"classifier.risks: template {chosen.template} is asked about all risks at once; expected none"
        )
    client = GuardModelClassifier(
        chosen.url,
        chosen.model,
        chosen.template,
        endpoint=chosen.endpoint,
        categories=chosen.categories,
        controversial=float(chosen.controversial == "unsafe"),
        risks=chosen.risks,
        key=settings.secrets.classifier_api_key,
        deadline=chosen.deadline,
        queue=chosen.queue,
        window=chosen.window or WINDOW,
    )
    return client, card(chosen.model, guard, chosen.risks, categories=chosen.categories, threshold=chosen.threshold)
