"""Buckets: what a peer may ask, and what counts as one peer."""

from __future__ import annotations

from guardrail.portal.limits import Buckets, network


def test_a_bucket_empties_and_fills() -> None:
    buckets = Buckets(capacity=3, per_second=0.5)
    assert [buckets.take("a", 100.0) for _ in range(4)] == [0, 0, 0, 2.0]
    assert buckets.take("b", 100.0) == 0
    assert buckets.take("a", 101.0) == 1.0
    assert buckets.take("a", 102.0) == 0
    assert [buckets.take("a", 1e9) for _ in range(4)] == [0, 0, 0, 2.0]


def test_a_clock_that_goes_back_neither_fills_nor_locks() -> None:
    buckets = Buckets(capacity=1, per_second=1)
    assert buckets.take("a", 100.0) == 0
    assert buckets.take("a", 50.0) == 1
    assert buckets.take("a", 51.0) == 0


def test_only_the_latest_peers_are_remembered() -> None:
    buckets = Buckets(capacity=1, per_second=0.001, most=10)
    for number in range(1000):
        buckets.take(str(number), 0.0)
    assert buckets.take("999", 0.0) > 0
    assert buckets.take("0", 0.0) == 0


def test_an_ipv6_subscriber_is_one_peer() -> None:
    assert network("2001:db8:1:2::1") == network("2001:db8:1:2:ffff::9")
    assert network("2001:db8:1:2::1") != network("2001:db8:1:3::1")
    assert network("::ffff:192.0.2.1") == network("192.0.2.1") == "192.0.2.1"
    assert network("unknown") == "unknown"
