"""The trace simulator on traces small enough to check by hand, and the readers of public traces."""

from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight_pool.policy.keep_warm.forecast import ForecastSpec
from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pilotlight_pool.simulator import fixed_window, public_traces, request_trace, synthetic, warm_pool
from pilotlight_pool.simulator.outcome import Outcome
from pilotlight_pool.simulator.request_trace import Endpoint, InvalidTrace

SPEC = warm_pool.PoolSpec(thin_pod_s=0.0, swap_ram_s=0.25, swap_disk_s=1.0, keep=KeepAliveSpec(price_slot_s=600.0))


def two_fine_tunes(*requests: tuple[float, int, float], shared: bool = True) -> request_trace.Trace:
    endpoints = [Endpoint(f"e{n}", "acme", "f" if shared else f"f{n}") for n in range(3)]
    return request_trace.build(endpoints, requests)


def test_a_fixed_window_boots_waits_and_counts_its_slot_until_the_trace_ends() -> None:
    story = two_fine_tunes((0.0, 0, 5.0), (10.0, 0, 5.0), (100.0, 0, 5.0), (1000.0, 0, 5.0), (1010.0, 1, 1.0))
    outcome = fixed_window.simulate(story, keep_s=90.0, boot_s=29.0, name="Knative")
    # At 10 s the pod has 19 s of its boot left; at 100 s it is warm; at 1000 s it is long gone.
    assert sorted(outcome.waits_s) == [19.0, 29.0, 29.0, 29.0]
    assert outcome.slot_seconds == pytest.approx((105.0 + 90.0) + 10.0 + 0.0)
    assert outcome.cold_rate == pytest.approx(4 / 5)
    assert outcome.boots == 3


def test_the_pool_swaps_where_the_window_boots() -> None:
    story = two_fine_tunes((0.0, 0, 5.0), (60.0, 1, 5.0), (120.0, 0, 5.0), (180.0, 2, 5.0))
    shared = warm_pool.simulate(story, SPEC, "ours")
    # The second and the fourth endpoint come from disk, the first is still in RAM when it returns.
    assert sorted(shared.waits_s) == [0.25, 1.0, 1.0, 29.0]
    assert (shared.boots, shared.peak_slots) == (1, 1)
    assert shared.slot_seconds == pytest.approx(180.0)
    alone = warm_pool.simulate(two_fine_tunes((0.0, 0, 5.0), (60.0, 1, 5.0), shared=False), SPEC, "unshared")
    assert alone.boots == 2


def test_a_request_waits_for_the_engine_that_comes_first_and_the_boot_becomes_a_spare() -> None:
    story = two_fine_tunes((0.0, 0, 1.0), (31.0, 0, 9.0), (35.0, 1, 1.0), (100.0, 2, 1.0))
    outcome = warm_pool.simulate(story, SPEC, "ours")
    # At 35 s the engine is busy until 40 s: the other endpoint gets it then, a boot would have taken until 64 s.
    assert 6.0 in outcome.waits_s
    assert outcome.boots == 2


def test_two_at_once_need_two_slots_and_the_level_above_is_released_on_its_own() -> None:
    spec = replace(SPEC, keep=KeepAliveSpec(price_slot_s=100.0))
    story = two_fine_tunes((0.0, 0, 10.0), (1.0, 1, 10.0), (500.0, 0, 1.0))
    outcome = warm_pool.simulate(story, spec, "ours")
    # Both boot (29 s), work 10 s, and are kept for 100 s: until 139 s and 140 s; at 500 s one boots again.
    assert outcome.boots == 3
    assert outcome.slot_seconds == pytest.approx(139.0 + 139.0, abs=1.01)


def test_a_thin_pod_that_went_to_zero_is_part_of_the_wait() -> None:
    story = two_fine_tunes((0.0, 0, 1.0), (60.0, 0, 1.0), (400.0, 0, 1.0))
    outcome = warm_pool.simulate(story, replace(SPEC, thin_pod_s=1.4), "ours")
    assert outcome.waits_s == pytest.approx([29.0, 1.4])


def test_price_zero_keeps_nothing() -> None:
    story = two_fine_tunes((0.0, 0, 1.0), (60.0, 0, 1.0), (120.0, 1, 1.0))
    outcome = warm_pool.simulate(story, replace(SPEC, keep=KeepAliveSpec(price_slot_s=0.0)), "ours")
    assert outcome.boots == 3
    assert outcome.slot_seconds == pytest.approx(60.0)


def test_percentiles_count_those_who_did_not_wait() -> None:
    outcome = Outcome("x", 100, waits_s=[10.0, 20.0])
    assert (outcome.percentile_s(50), outcome.percentile_s(98), outcome.percentile_s(99)) == (0.0, 10.0, 20.0)
    assert Outcome("x", 10).percentile_s(99) == 0.0


def test_the_synthetic_week_is_the_same_for_the_same_seed() -> None:
    spec = synthetic.SyntheticSpec(endpoints=20, requests=4000)
    week = synthetic.generate(spec)
    assert week == synthetic.generate(spec)
    assert week != synthetic.generate(replace(spec, seed=2))
    assert 1500 < len(week.arrivals_s) < 8000
    assert list(week.arrivals_s) == sorted(week.arrivals_s)
    alone = synthetic.generate(replace(spec, fingerprints=20))
    assert len({endpoint.fingerprint for endpoint in alone.endpoints}) == 20


def test_on_the_synthetic_week_the_pool_halves_cold_starts_with_fewer_slots() -> None:
    week = synthetic.generate(synthetic.SyntheticSpec(endpoints=100, days=2.0, requests=50_000, fingerprints=3))
    knative = fixed_window.simulate(week, 90.0, 29.0, "Knative")
    ours = warm_pool.simulate(week, warm_pool.PoolSpec(keep=KeepAliveSpec(price_slot_s=100.0)), "ours")
    assert ours.slot_seconds <= knative.slot_seconds
    assert ours.cold_rate <= knative.cold_rate / 2
    # Every request is served or still waiting at the end; none is counted twice.
    assert len(ours.waits_s) <= ours.requests == knative.requests
    foreseen = warm_pool.simulate(
        week, warm_pool.PoolSpec(keep=KeepAliveSpec(price_slot_s=3000.0), forecast=ForecastSpec()), "forecast"
    )
    assert foreseen.cold_rate <= ours.cold_rate


def test_our_own_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    story = two_fine_tunes((5.0, 0, 1.5), (0.0, 2, 2.0))
    request_trace.write_csv(story, tmp_path / "t.csv")
    again = request_trace.read_csv(tmp_path / "t.csv")
    assert [again.endpoints[i].name for i in again.endpoint_of] == ["e2", "e0"]
    assert list(again.durations_s) == [2.0, 1.5]
    (tmp_path / "bad.csv").write_text("timestamp_s,endpoint\n1,x\n")
    with pytest.raises(InvalidTrace, match=r"bad\.csv:2.*expected timestamp_s,endpoint"):
        request_trace.read_csv(tmp_path / "bad.csv")


def test_azure_functions_2019(tmp_path: Path) -> None:
    minutes = ["0"] * 1440
    minutes[3], minutes[1000] = "2", "1"
    header = ",".join(["HashOwner", "HashApp", "HashFunction", "Trigger", *[str(n) for n in range(1, 1441)]])
    day = tmp_path / "invocations_per_function_md.anon.d01.csv"
    day.write_text(header + "\n" + ",".join(["o" * 64, "a" * 64, "f" * 64, "http", *minutes]) + "\n")
    durations = tmp_path / "function_durations_percentiles.anon.d01.csv"
    durations.write_text(f"HashOwner,HashApp,HashFunction,Average,Count\n{'o' * 64},{'a' * 64},{'f' * 64},2500,3\n")
    read = public_traces.read_azure_functions([day, day], [durations], fingerprints=2, max_endpoints=10, seed=1)
    assert (len(read.endpoints), len(read.arrivals_s)) == (1, 6)
    assert set(read.durations_s) == {2.5}
    assert read.arrivals_s[1] < 60.0
    assert read.arrivals_s[3] == pytest.approx(86_400.0, abs=120.0)
    with pytest.raises(InvalidTrace, match="not invocations per function"):
        public_traces.read_azure_functions([durations], [], fingerprints=2, max_endpoints=10, seed=1)


@pytest.mark.parametrize(
    ("header", "rows", "durations"),
    [
        (
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
            ["5,ChatGPT,472,18,490,Conversation log", "45,GPT-4,10,0,10,API log", "118,GPT-4,417,276,693,API log"],
            [0.36, 5.52],
        ),
        (
            "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type",
            ["5,77,3.5,ChatGPT,472,18,490,Conversation log", "90,77,4.5,ChatGPT,1,2,3,Conversation log"],
            [3.5, 4.5],
        ),
    ],
    ids=["release 1", "release 2"],
)
def test_burstgpt(tmp_path: Path, header: str, rows: list[str], durations: list[float]) -> None:
    path = tmp_path / "BurstGPT_1.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    read = public_traces.read_burstgpt(path, endpoints=10, fingerprints=3, seed=1, days=1.0)
    assert list(read.durations_s) == pytest.approx(durations)
    if "Session" in header:
        assert len(set(read.endpoint_of)) == 1
