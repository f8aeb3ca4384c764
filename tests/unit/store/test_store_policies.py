from __future__ import annotations

from typing import Any

import pytest

from pilotlight_protocol.back_off import BackOff
from pilotlight_store.published.eviction import Candidate, Evict, Refuse, make_room
from pilotlight_store.sources.addresses import AddressRules, permitted, refusal
from pilotlight_store.transfer.bandwidth import BandwidthCap, full, take
from pilotlight_store.transfer.names import NameRefused, check_name, in_part, select
from pilotlight_store.transfer.retry import (
    BYTES_PER_RETRY,
    GiveUp,
    RetryRules,
    RetryState,
    after_failure,
    after_progress,
)

GB = 10**9


# Names


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "a/B.PT", "x.pth", "x.ckpt", "x.pkl", "x.npz", "modeling.py", "w.zip"]
)
def test_files_that_can_run_code_are_refused(name: str) -> None:
    with pytest.raises(NameRefused, match="run code"):
        check_name(name)


def test_pickles_stay_behind_where_safetensors_are() -> None:
    selection = select(
        ["model.safetensors", "pytorch_model.bin", "config.json", "onnx/model.json", ".gitattributes", "a.png"]
    )
    assert selection.wanted == ("config.json", "model.safetensors")
    assert selection.code == ("pytorch_model.bin",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin", "config.json"], "convert them to safetensors"),
        (["config.json"], "no \\*.safetensors"),
        ([], "no \\*.safetensors"),
        (["model.safetensors", "../../etc/cron.d/x.json"], "no empty part"),
        (["model.safetensors", "/etc/x.json"], "relative"),
        (["model.safetensors", "Model.safetensors"], "case or Unicode form only"),
        (["model.safetensors", "caf\u00e9.json", "cafe\u0301.json"], "case or Unicode form only"),
        (["model.safetensors", "a.json", "a.json/b.json"], "also a folder"),
        (["model.safetensors", "A.json/b.json", "a.json"], "also a folder"),
        (["model.safetensors", "a\u202egnp.json"], "control"),
        (["model.safetensors", "a\x9b2J.json"], "control"),
    ],
)
def test_sources_that_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(NameRefused, match=message):
        select(names)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "nonsense",
        "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "192.0.2.1", "::10.0.0.1", "::ffff:0:10.0.0.1", "fec0::1", "192.0.0.8", "3fff::1", "5f00::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_the_internet(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert refusal(address) is None


def test_one_private_address_spoils_the_name_and_a_host_can_be_opened() -> None:
    mixed = ["8.8.8.8", "10.0.0.1"]
    refused = permitted("models.example", 443, mixed, AddressRules())
    assert isinstance(refused, str)
    assert "--allow-host models.example:443" in refused
    assert permitted("Models.example", 443, mixed, AddressRules(allowed_hosts=frozenset({"models.example:443"}))) == (
        "8.8.8.8",
        "10.0.0.1",
    )
    assert isinstance(
        permitted("models.example", 22, mixed, AddressRules(allowed_hosts=frozenset({"models.example:443"}))), str
    )


# Bandwidth


def test_the_average_holds_whatever_the_amounts() -> None:
    cap = BandwidthCap(100.0, 50.0)
    bucket, now, sent = full(cap, 0.0), 0.0, 0
    for amount in (50, 10, 200, 1, 39):
        wait_s, bucket = take(cap, bucket, amount, now)
        now += wait_s
        sent += amount
    assert now == pytest.approx((sent - 50) / 100)


def test_concurrent_takers_queue_and_idling_earns_one_burst_only() -> None:
    cap = BandwidthCap(100.0, 50.0)
    bucket = full(cap, 0.0)
    waits = []
    for _ in range(3):
        wait_s, bucket = take(cap, bucket, 100, 0.0)
        waits.append(wait_s)
    assert waits == pytest.approx([0.5, 1.5, 2.5])
    assert take(cap, bucket, 50, 1000.0)[0] == 0.0
    assert take(cap, bucket, 150, 1000.0)[0] == pytest.approx(1.0)


# Retry

RULES = RetryRules(attempts=4, budget=5, back_off=BackOff(1.0, 3.0))


@pytest.mark.parametrize(
    ("failures", "jitter", "asked_s", "delay_s"),
    [(1, 0.5, 0.0, 0.5), (2, 0.5, 0.0, 1.0), (3, 1.0, 0.0, 3.0), (1, 0.0, 2.0, 2.0), (1, 0.0, 99.0, 3.0)],
)
def test_delays(failures: int, jitter: float, asked_s: float, delay_s: float) -> None:
    assert after_failure(RULES, RetryState(), failures, jitter, asked_s) == (delay_s, RetryState(spent=1))


def test_one_range_and_the_whole_model_are_given_up_on_and_bytes_earn_retries_back() -> None:
    assert isinstance(after_failure(RULES, RetryState(), 4, 0.0, 0.0)[0], GiveUp)
    spent = RetryState(spent=5)
    assert isinstance(after_failure(RULES, spent, 1, 0.0, 0.0)[0], GiveUp)
    earned = after_progress(spent, BYTES_PER_RETRY + 7)
    assert earned == RetryState(4, 7)
    assert after_failure(RULES, earned, 1, 0.0, 0.0)[0] == 0.0
    assert after_progress(RetryState(), 10 * BYTES_PER_RETRY).spent == 0


# Eviction


def candidate(digest: str, **change: Any) -> Candidate:
    parts: dict[str, Any] = {"size_bytes": GB, "frequency": 1, "cost_s": 1.0, "clock": 0.0}
    return Candidate(digest, **(parts | change))


@pytest.mark.parametrize(
    ("candidates", "evicted"),
    [
        ([candidate("often", frequency=9), candidate("seldom")], "seldom"),
        ([candidate("dear", cost_s=60.0), candidate("cheap")], "cheap"),
        ([candidate("small", size_bytes=GB // 2), candidate("large")], "large"),
        ([candidate("old", frequency=3), candidate("young", clock=5.0)], "old"),
        ([candidate("pinned", kept=True), candidate("dear", cost_s=99.0)], "dear"),
    ],
)
def test_who_makes_room(candidates: list[Candidate], evicted: str) -> None:
    decision = make_room(GB, 2 * GB, 2 * GB, candidates, 0.0)
    assert isinstance(decision, Evict)
    assert decision.digests == (evicted,)


def test_nothing_is_evicted_without_need_and_the_clock_stands() -> None:
    assert make_room(GB, GB, 2 * GB, [candidate("a")], 3.0) == Evict((), 3.0)


def test_the_clock_is_the_priority_of_the_last_one_evicted() -> None:
    decision = make_room(2 * GB, 2 * GB, 2 * GB, [candidate("a"), candidate("b", cost_s=7.0)], 0.0)
    assert decision == Evict(("a", "b"), 7.0)


def test_a_model_larger_than_the_budget_is_refused_with_numbers() -> None:
    decision = make_room(70 * GB, 0, 50 * GB, [], 0.0)
    assert isinstance(decision, Refuse)
    assert "70.000 GB" in decision.reason
    assert "50.000 GB" in decision.reason


def test_what_is_pinned_or_in_use_is_kept_and_counted() -> None:
    decision = make_room(GB, 2 * GB, 2 * GB, [candidate("a", kept=True), candidate("b", kept=True)], 0.0)
    assert isinstance(decision, Refuse)
    assert "2.000 GB of that is pinned, held or being downloaded" in decision.reason


def test_what_handles_text_gets_how_a_model_pools_and_nothing_heavy() -> None:
    names = ["modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "2_Dense/model.safetensors"]
    others = ["config.json", "tokenizer.json", "model.safetensors", "a/b/config.json", "1_Pooling/notes.json"]
    wanted = [name for name in select([*names, *others]).wanted if in_part(name, "tokenizer")]
    assert wanted == sorted([*names[:3], "config.json", "tokenizer.json"])
    assert "2_Dense/model.safetensors" in select([*names, *others]).wanted


def test_what_handles_text_finds_something_to_fetch_of_an_adapter_without_a_template() -> None:
    names = ["adapter_config.json", "adapter_model.safetensors", "README.md"]
    assert [name for name in select(names).wanted if in_part(name, "tokenizer")] == ["adapter_config.json"]


def test_what_handles_text_gets_the_text_of_an_adapter_and_not_its_weights() -> None:
    text = ["added_tokens.json", "chat_template.jinja", "special_tokens_map.json", "tokenizer.json"]
    names = [*text, "tokenizer_config.json", "adapter_config.json", "adapter_model.safetensors", "merges.txt"]
    wanted = {name for name in select(names).wanted if in_part(name, "tokenizer")}
    assert wanted == {*text, "tokenizer_config.json", "adapter_config.json"}
