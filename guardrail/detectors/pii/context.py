"""Words to the left of a number that say what it is, in Chinese and English. Each looks at a bounded piece of text."""

from __future__ import annotations

import re
from re import Pattern
from typing import Final


def _words(han: str, latin: str) -> Pattern[str]:
    return re.compile(f"{han}|(?<![a-z])(?:{latin})(?![a-z])" if latin else han, re.IGNORECASE)


ID_CARD: Final = _words(
    "身份证|身份證|身分證|证件号|證件號|公民身份|居民身份", "id ?cards?|identity|id (?:no|number|num)|resident id"
)
BANK_CARD: Final = _words(
    "银行卡|銀行卡|信用卡|储蓄卡|借记卡|卡号|卡號|账号|账户|帳號|支付",
    "cards?|visa|mastercard|amex|unionpay|cc|pan|debit|credit",
)
PHONE: Final = _words(
    "电话|電話|手机|手機|座机|固话|热线|传真|联系|致电|拨打|来电",
    "phones?|telephones?|tel|mobiles?|cell(?:phone)?|call(?:ed|ing)?|dial|fax|contact|reach|text|sms|whatsapp|hotline|ring",
)
DIAL: Final = _words(
    "电话|電話|手机|手機|座机|传真|致电",
    "phones?|telephones?|tel|mobiles?|cell(?:phone)?|call|dial|fax|whatsapp|answering",
)
IP: Final = _words(
    "地址|登录|服务器|主机|访问|来自|网关|域名|端口",
    "ip|ipv4|ipv6|address|addr|hosts?|server|client|gateway|dns|login|logged|ping|ssh",
)
IBAN: Final = _words("国际银行账号|国际银行帐号", "iban")
USCC: Final = _words("信用代码|信用代號|税号|纳税人识别号", "uscc|credit code")
PASSPORT: Final = _words("护照|護照", "passports?")
PERMIT: Final = _words("通行证|通行證|回乡证|回鄉證", "(?:travel|entry) permit|home return permit")
# What presidio is asked about only beside such a word: its own context words, and what Chinese text says instead.
CONSULT: Final = re.compile(
    "社保|社会安全|护照|護照|驾照|驾驶证|税号|银行|账户|账号"
    r"|social|ssns?\b|ssid|passport|travel document|taxpayer|\bitin\b|\btin\b|tax ?id|account|acct|\bbank|routing"
    r"|driver|licen[cs]e|\bdls\b|driving",
    re.IGNORECASE,
)

# A number that the text itself calls something impersonal: the word stands right before it.
_IMPERSONAL: Final = re.compile(
    "(?:订单|訂單|单号|單號|编号|編號|流水|序列|运单|快递|物流|工单|批次|批号|货号|型号|版本|固件|条码|条形码|交易号|时间戳|工号"
    r"|(?<![a-z])(?:orders?|tracking|shipment|parcel|invoice|ticket|serial|sku|isbn|issn|imei|upc|ean|doi|version|ver|build|commit"
    r"|hash|checksum|timestamp|transaction|reference|ref|batch|part|model|product|item|case|pid|uuid|job))"
    r"[\s:：#＃\"'=（(-]{0,3}(?:(?:号码|号|码|为|是|ids?|no|numbers?|num|nr|code|is|was|of)[\s:：#＃\"'=.（(-]{0,3}){0,3}$",
    re.IGNORECASE,
)
_IMPERSONAL_REACH: Final = 32
_AMOUNT: Final = frozenset("元块万亿人%％度米次个個岁吨台件股户页字")
_CURRENCY: Final = frozenset("¥￥$€£₩₹")

REACH: Final = 48
"""Characters to the left in which a naming word counts."""


def named(words: Pattern[str], text: str, start: int, reach: int = REACH) -> bool:
    """Whether one of `words` stands within `reach` characters to the left of `start`."""
    return words.search(text, max(0, start - reach), start) is not None


def impersonal(text: str, start: int, end: int, after: str) -> bool:
    """Whether `text[start:end]` is called an order number, a version ... or is an amount.

    `after` is what follows `text`, as far as it is known; one character is looked at.
    """
    left = text[start - 1 : start]
    right = text[end : end + 1] or after[:1]
    if left in _CURRENCY or right in _AMOUNT:
        return True
    return _IMPERSONAL.search(text[max(0, start - _IMPERSONAL_REACH) : start]) is not None
