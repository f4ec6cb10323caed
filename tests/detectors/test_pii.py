"""What counts as personal information and what only looks like it; numbers are made up."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn
from stdnum.cn import ric

from guardrail.core.content import Direction
from guardrail.core.frontier import Scanner, Window
from guardrail.detectors.pii import labels, recognise
from guardrail.detectors.pii.detector import PiiDetector, find
from guardrail.errors import DetectorError
from guardrail.protocols import Detector, Priority

FOUND = [
    # between Han characters, where \b sees no boundary
    ("我的手机是13800138000请转告", "13800138000", "PHONE"),
    ("联系方式+86 138-0013-8000。", "+86 138-0013-8000", "PHONE"),
    ("电话１３８００１３８０００谢谢", "１３８００１３８０００", "PHONE"),
    ("tel13912345678", "13912345678", "PHONE"),
    ("座机010-65529988转8001", "010-65529988", "LANDLINE"),
    ("电话：01065529988，", "01065529988", "LANDLINE"),
    ("ring (415) 382-0946 now", "(415) 382-0946", "PHONE"),
    ("on +44 20 7183 8750.", "+44 20 7183 8750", "PHONE"),
    ("Phone: 88 165 40 96", "88 165 40 96", "PHONE"),
    ("身份证号码11010519491231002X。", "11010519491231002X", "ID_CARD"),
    ("number 11010519491231002x ok", "11010519491231002x", "ID_CARD"),
    ("为440308 19990110 1512，", "440308 19990110 1512", "ID_CARD"),
    ("身份证号110105491231002", "110105491231002", "ID_CARD"),
    ("卡号6225758314902769435，", "6225758314902769435", "BANK_CARD"),
    ("card 4539-5787-6362-1486.", "4539-5787-6362-1486", "BANK_CARD"),
    ("amex 3782 822463 10005", "3782 822463 10005", "BANK_CARD"),
    ("邮箱lin.qing@mail-demo.cn请查收", "lin.qing@mail-demo.cn", "EMAIL"),
    ("<r.o+x@a.b.example.org>,", "r.o+x@a.b.example.org", "EMAIL"),
    ("mailto:13800138000@mail-demo.com", "13800138000@mail-demo.com", "EMAIL"),
    ("从203.119.25.7登录", "203.119.25.7", "IP"),
    ("at 2001:db8:85a3::8a2e:370:7334.", "2001:db8:85a3::8a2e:370:7334", "IP"),
    ("to GB82 WEST 1234 5698 7654 32 2024", "GB82 WEST 1234 5698 7654 32", "IBAN"),
    ("账号de89370400440532013000。", "de89370400440532013000", "IBAN"),
    ("护照号E51726384，", "E51726384", "PASSPORT"),
    ("港澳通行证C12345678，", "C12345678", "HK_MACAU_PERMIT"),
    ("信用代码91350100M000100Y43。", "91350100M000100Y43", "USCC"),
]

ASKED = [
    ("My SSN is 536-22-8714.", "536-22-8714", "US_SSN"),
    ("他的社保号（SSN）是536-22-8714，", "536-22-8714", "US_SSN"),
    ("social security: 536228714", "536228714", "US_SSN"),
    ("her ITIN, 912-78-1234", "912-78-1234", "US_ITIN"),
    ("pay 1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2 now", "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2", "CRYPTO"),
    ("Her passport number is 483920175 and", "483920175", "PASSPORT"),
    ("my bank account 004729183625 please", "004729183625", "US_BANK_NUMBER"),
    ("driver's license number is D6101745", "D6101745", "US_DRIVER_LICENSE"),
    ("please call 2125552368 today", "2125552368", "PHONE"),
]

NOTHING = [
    "订单号13800138000已发货",
    "快递单号SF138001380001，明天送达",
    "Order number 368470146089 has shipped.",
    "tracking no. 4539578763621486",
    "ISBN 978-7-302-51112-8 与 9787302511128",
    "时间戳1712345678901，即2024-04-05 19:34:38",
    "圆周率是3.14159265358979323846",
    "价格13800138000元，共13912345678人",
    "$13,800,138,000 and ￥13800138000",
    "commit 1f7ac9c33be04f8d2a5e6cbd0f3e9a7711c2d3e4",
    "v1.2.3.4, version 10.12.3.44, 固件10.10.3",
    "合同编号HT-69684422-9378",
    "客服热线400-820-8820或800-733-5749",
    "Call 911, or 10086.",
    "2024-05-06 12:30:45 2024/5/6 06.05.2024",
    "std::vector<int> add::fee",
    "127.0.0.1 ::1 0.0.0.0 255.255.255.0 999.1.1.1",
    "git@codehost-demo.com:team/app.git 与 logo@2x.png",
    "@alice and user@ and @pytest.fixture",
    "4539 5787 6362 1487",
    "设备序列号462648401981057",
    "550e8400-e29b-41d4-a716-446655440000",
    "股票代码600519收盘1680.50",
    "地址1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN3无效",
    "GB83 WEST 1234 5698 7654 32",
    "SSN 000-00-0000",
    "身份证号码的最后一位是怎么算的？",
]


@pytest.mark.parametrize(("text", "value", "label"), FOUND, ids=[label + " " + value for _, value, label in FOUND])
def test_what_a_form_or_check_digit_shows_is_found_exactly(text: str, value: str, label: str) -> None:
    start = text.index(value)
    assert find(text) == [(start, start + len(value), label)]


@pytest.mark.parametrize(("text", "value", "label"), ASKED, ids=[label + " " + value for _, value, label in ASKED])
def test_what_needs_the_words_around_it_is_found_by_presidio(text: str, value: str, label: str) -> None:
    start = text.index(value)
    assert find(text) == [(start, start + len(value), label)]


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_like_personal_information_is_left_alone(text: str) -> None:
    assert find(text) == []


@given(st.sampled_from(["110105", "440308", "650102"]), st.dates(), st.integers(0, 999), st.integers(0, 10))
def test_a_resident_id_is_found_with_its_check_digit_and_not_with_another(region, born, sequence, shift) -> None:
    born = born.replace(year=1900 + born.year % 120, day=min(born.day, 28))
    body = f"{region}{born:%Y%m%d}{sequence:03d}"
    digits = "0123456789X"
    right = ric.calc_check_digit(body + "0")
    given_digit = digits[(digits.index(right) + shift) % 11]
    found = [label for *_, label in find(f"号码{body}{given_digit}。") if label == labels.ID_CARD]
    assert found == ([labels.ID_CARD] if given_digit == right else [])


@given(st.integers(0, 10**9 - 1), st.integers(0, 9))
def test_a_card_is_found_with_its_luhn_digit_and_not_with_another(number, shift) -> None:
    body = f"622575{number:09d}"
    digit = (int(luhn.calc_check_digit(body)) + shift) % 10
    assert (labels.BANK_CARD in [label for *_, label in find(f"转账到{body}{digit}即可")]) == (shift == 0)


def test_a_resident_id_is_not_also_a_card_or_a_telephone_number() -> None:
    number = next(
        body + ric.calc_check_digit(body + "0")
        for sequence in range(1000)
        if luhn.is_valid((body := f"62010219771108{sequence:03d}") + ric.calc_check_digit(body + "0"))
    )
    assert [label for *_, label in find(f"{number}")] == [labels.ID_CARD]


def test_a_text_with_lone_surrogates_is_screened_like_any_other() -> None:
    assert find("\ud800 13800138000 \udfff") == [(2, 13, labels.PHONE)]


PIECES = [value for _, value, _ in FOUND + ASKED] + [
    *NOTHING,
    " ",
    "，",
    "-",
    ".",
    "电话",
    "tel",
    "9" * 30,
    "a" * 70,
    "(",
]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join))
def test_the_set_matcher_only_spares_work_and_changes_no_answer(run: str) -> None:
    run = run.replace("１３８００１３８０００", "1")
    everything = range(len(recognise._SHAPES))
    seen = recognise.shapes(run)
    assert recognise.recognise(run, 0, "", seen) == recognise.recognise(run, 0, "", everything)


def test_the_detector_and_its_scanner_are_what_the_gateway_expects() -> None:
    detector = PiiDetector()
    scanner: Scanner = detector.scanner(Direction.PROMPT, frozenset({labels.EMAIL}))
    assert isinstance(detector, Detector)
    assert set(labels.ALIASES.values()) <= set(detector.thresholds)
    assert not detector.strike_thresholds
    assert [finding.category for finding in scanner.feed("a@b.cn 13800138000", last=True).findings] == [labels.EMAIL]


async def test_presidio_answers_a_batch_of_windows_in_their_order() -> None:
    detector = PiiDetector(preload=True)
    await detector.start()
    windows = [Window("SSN 536-22-8714", 10, 14, 26), Window("none", 0, 0, 5), Window("SSN 219-09-9998", 0, 4, 16)]
    answers = await detector.examine(windows, Priority.STREAM)
    assert [[(f.start, f.end, f.at, f.category) for f in answer] for answer in answers] == [
        [(14, 25, 26, labels.US_SSN)],
        [],
        [(4, 15, 16, labels.US_SSN)],
    ]
    await detector.close()


async def test_a_failure_of_presidio_is_a_detector_error_without_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("secret 536-22-8714")

    monkeypatch.setattr("guardrail.detectors.pii.detector.answer", broken)
    with pytest.raises(DetectorError) as caught:
        await PiiDetector().examine([Window("SSN 536-22-8714", 0, 4, 16)], Priority.PROMPT)
    assert "536" not in str(caught.value)
    assert "ValueError" in str(caught.value)


def test_presidio_is_imported_when_it_is_first_needed_and_not_before() -> None:
    script = """
import sys
from guardrail.detectors.pii.detector import find
heavy = ("presidio_analyzer", "spacy", "torch")
texts = %r
for text in texts:
    find(text)
assert not [name for name in heavy if name in sys.modules], "a text that needs no presidio loaded it"
find("My SSN is 536-22-8714.")
assert "presidio_analyzer" in sys.modules
""" % [text for text, _, _ in FOUND]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
