"""Every exception this package raises on purpose, drawn as a tree; a blocked text is a value, never one of these.

GuardrailError
|-- SettingsError            at start: file, key, what was expected
|-- PolicyError              at start or reload: file, rule, key, what was expected
|-- DetectorError            becomes a `Failure`; the policy's `on_error` answers
|   |-- DetectorTimeout
|   `-- DetectorOverloaded
|-- WireError                a body we could not take; carries the status and code of the answer
|   |-- MalformedRequest     400
|   |-- Unreadable           415 (type, encoding) or 422 (a part we cannot screen)
|   |-- TooLarge             413
|   `-- MalformedResponse    502
|-- UpstreamError
|   |-- UpstreamUnavailable  502
|   `-- UpstreamTimeout      504
|-- StoreError               cannot know or keep a record; `on_store_error` answers
|-- RecordError              a record that does not verify: altered, of another key, not the one it says it is
`-- CaseError                an appeal that cannot be filed or decided as asked
"""

from __future__ import annotations


class GuardrailError(Exception):
    """Root of the tree: catch this to catch everything the package raises on purpose."""


class SettingsError(GuardrailError):
    """A setting, key file or model that cannot be used: the message names file, key and what is accepted."""


class PolicyError(GuardrailError):
    """A policy pack that cannot be enforced: the message names file, rule, key and what is accepted."""


class DetectorError(GuardrailError):
    """A detector gave no usable answer. `kind` is a closed word for metrics: error, timeout or overloaded."""

    kind = "error"


class DetectorTimeout(DetectorError):
    """A detector did not answer before its deadline."""

    kind = "timeout"


class DetectorOverloaded(DetectorError):
    """A detector's queue is full; it says so at once instead of keeping the caller waiting."""

    kind = "overloaded"


class WireError(GuardrailError):
    """A body that cannot be taken. The message is shown to the caller, so it never quotes what they wrote."""

    status = 400
    code = "malformed"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class MalformedRequest(WireError):
    """The request body is not what its surface defines."""


class Unreadable(WireError):
    """A content type or encoding (415), or a part of readable JSON (422), that cannot be screened."""

    code = "unreadable"

    def __init__(self, message: str, *, status: int = 422, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status


class TooLarge(WireError):
    """The body is over the configured limit."""

    status = 413
    code = "too_large"


class MalformedResponse(WireError):
    """The upstream answered with something its surface does not define."""

    status = 502
    code = "bad_upstream_response"


class UpstreamError(GuardrailError):
    """The upstream gave no usable answer."""

    status = 502
    code = "upstream_unavailable"


class UpstreamUnavailable(UpstreamError):
    """The upstream refused the connection, broke it or answered with something unreadable."""


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer in time."""

    status = 504
    code = "upstream_timeout"


class StoreError(GuardrailError):
    """The store is away: a standing cannot be known or a record cannot be kept."""


class RecordError(GuardrailError):
    """A record that does not verify; the message names it and never what it holds."""


class CaseError(GuardrailError):
    """An appeal that cannot be filed or decided as asked. `code` says why: unknown, too_many, decided or barred."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code
