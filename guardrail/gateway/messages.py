"""What people read when we do not give them what they asked for, in Chinese and in English."""

from __future__ import annotations

from guardrail.wire.negotiation import language

__all__ = ["MESSAGES", "language", "message"]

MESSAGES: dict[str, dict[str, str]] = {
    "content_filter": {
        "en": "This request was not processed because it goes against the rules of this service.",
        "zh": "该请求违反本服务的使用规则，未予处理。",
    },
    "answer_filtered": {
        "en": "The answer was stopped because it goes against the rules of this service.",
        "zh": "回答内容违反本服务的使用规则，已停止输出。",
    },
    "rate_limited": {
        "en": "Too many requests. Because of earlier refused requests, this account is limited for a while.",
        "zh": "请求过于频繁。因此前的违规请求，该账号暂时受到限制。",
    },
    "account_suspended": {
        "en": "This account is suspended because of repeated requests that go against the rules of this service.",
        "zh": "因多次提交违反使用规则的请求，该账号已被暂停使用。",
    },
    "account_terminated": {
        "en": "This account is closed because of requests that go against the rules of this service.",
        "zh": "因提交违反使用规则的请求，该账号已被关闭。",
    },
    "warning": {
        "en": "Please note: further requests of this kind will limit and then suspend this account.",
        "zh": "请注意：继续提交此类请求将导致账号受限直至暂停使用。",
    },
    "screening_unavailable": {
        "en": "The request could not be checked just now, so it was not processed. Please try again.",
        "zh": "当前无法完成内容检查，请求未予处理，请稍后重试。",
    },
    "surface_not_guarded": {
        "en": "This address is not one that the guard can screen, so nothing was sent on.",
        "zh": "该接口不在可检查的范围内，请求未转发。",
    },
    "invalid_api_key": {
        "en": "The request carries no valid key of this service.",
        "zh": "请求未携带本服务的有效密钥。",
    },
    "label_required": {
        "en": "Answers for machines cannot carry a visible label; the app must attest that it shows one.",
        "zh": "结构化输出无法附加显式标识，须由应用声明自行展示标识后方可使用。",
    },
    "upstream_unavailable": {
        "en": "The model behind this service cannot be reached just now.",
        "zh": "当前无法连接后端模型服务。",
    },
    "upstream_timeout": {
        "en": "The model behind this service did not answer in time.",
        "zh": "后端模型服务响应超时。",
    },
    "bad_upstream_response": {
        "en": "The model behind this service gave an answer that could not be read.",
        "zh": "后端模型服务返回了无法读取的内容。",
    },
    "internal_error": {
        "en": "Something went wrong on our side; the request was not processed.",
        "zh": "服务内部出错，请求未予处理。",
    },
}


def message(code: str, lang: str) -> str:
    """The sentence for a reason code."""
    return MESSAGES[code][lang]
