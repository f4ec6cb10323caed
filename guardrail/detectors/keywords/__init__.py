"""Keywords: phrases, bounded patterns and hidden characters, found in text that arrives in pieces."""

from guardrail.detectors.keywords.detector import KeywordDetector

__all__ = ["KeywordDetector"]
