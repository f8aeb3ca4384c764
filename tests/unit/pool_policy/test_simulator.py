"""The trace simulator on traces small enough to check by hand, and the readers of public traces."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight_pool.policy.keep_warm.keep_alive import KeepAliveSpec
from pool_simulator import fixed_window, public_traces, request_trace, servegen, synthetic, variants, warm_pool
from pool_simulator.costs import PROFILES, Costs
from pool_simulator.outcome import Outcome
from pool_simulator.request_trace import Endpoint, InvalidTrace

COSTS = Costs("test", 29.0, 29.0, 0.25, 1.0, 0.005, 0.5)
SPEC = warm_pool.PoolSpec(COSTS, slots=4, keep=KeepAliveSpec(price_slot_s=600.0))


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
    # The first three of their models come from disk, the first is still in RAM when it returns.
    assert sorted(shared.waits_s) == pytest.approx([0.25, 1.0, 1.0, 29.75], abs=0.06)
    assert (shared.boots, shared.peak_slots) == (1, 1)
    assert shared.slot_seconds == pytest.approx(180.0, abs=0.5)
    alone = warm_pool.simulate(two_fine_tunes((0.0, 0, 5.0), (60.0, 1, 5.0), shared=False), SPEC, "unshared")
    assert alone.boots == 2


def test_requests_that_come_meanwhile_share_the_lease_and_its_wait() -> None:
    story = two_fine_tunes((0.0, 0, 1.0), (10.0, 0, 1.0), (30.0, 0, 9.0), (31.0, 0, 1.0))
    outcome = warm_pool.simulate(story, SPEC, "ours")
    assert sorted(outcome.waits_s) == pytest.approx([19.75, 29.75], abs=0.06)
    assert (outcome.boots, outcome.boot_waits) == (1, 2)


def test_a_request_waits_for_a_slot_that_is_busy_and_an_idle_lease_gives_way() -> None:
    spec = replace(SPEC, slots=1)
    story = two_fine_tunes((0.0, 0, 10.0), (30.0, 1, 1.0), (100.0, 2, 1.0))
    outcome = warm_pool.simulate(story, spec, "ours")
    # The engine works from 29 to 39 s; then its idle lease is preempted, nobody waits for its five seconds.
    assert 9.0 < sorted(outcome.waits_s)[1] < 11.5
    assert outcome.boots == 1


def test_what_is_not_worth_keeping_is_released() -> None:
    spec = replace(SPEC, keep=KeepAliveSpec(price_slot_s=100.0, uncontested_s=0.0))
    outcome = warm_pool.simulate(two_fine_tunes((0.0, 0, 10.0), (500.0, 0, 1.0)), spec, "ours")
    # 30 s of boot, 10 s of work, 5 s of lease, kept for 100 s; at 500 s one boots again.
    assert outcome.boots == 2
    assert outcome.slot_seconds == pytest.approx(144.0, abs=4.0)
    kept = warm_pool.simulate(two_fine_tunes((0.0, 0, 10.0), (500.0, 0, 1.0)), SPEC, "as shipped")
    assert (kept.boots, kept.boot_waits) == (1, 1), "nobody else wants its slot"


def test_price_zero_keeps_nothing() -> None:
    story = two_fine_tunes((0.0, 0, 1.0), (60.0, 0, 1.0), (120.0, 1, 1.0))
    outcome = warm_pool.simulate(story, replace(SPEC, keep=KeepAliveSpec(price_slot_s=0.0)), "ours")
    assert outcome.boots == 3
    # Two boots, two seconds of work, five of lease each; and until the next look at the clock.
    assert outcome.slot_seconds == pytest.approx(70.0, abs=4.1)


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


def test_azure_llm_2023(tmp_path: Path) -> None:
    path = tmp_path / "conv.csv"
    rows = [f"2023-11-16 18:{minute:02}:03.9799600,374,44" for minute in range(60)]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\n")
    read = public_traces.read_azure_llm([path], endpoints=4, most_per_endpoint=20, seed=1)
    assert {endpoint.fingerprint for endpoint in read.endpoints} == {"conv"}
    assert 0 < len(read.endpoints) < 4, "the busiest is never at zero"
    assert set(read.durations_s) == {0.88}
    assert all(round(at_s - read.arrivals_s[0]) % 60 == 0 for at_s in read.arrivals_s)
    path.write_text("TIMESTAMP,ContextTokens\nnever,3\n")
    with pytest.raises(InvalidTrace, match=r"conv\.csv:2.*Azure's trace"):
        public_traces.read_azure_llm([path], endpoints=4, most_per_endpoint=20, seed=1)


def archive(path: Path, **clients: str) -> Path:
    with tarfile.open(path, "w:xz") as files:
        for client, lines in clients.items():
            info = tarfile.TarInfo(f"servegen/data/language/m-large/{client}-trace.csv")
            info.size = len(lines)
            files.addfile(info, io.BytesIO(lines.encode()))
    return path


def test_servegen(tmp_path: Path) -> None:
    calm = "0,0,0,,0,0\n600,0.1,1.0,Gamma,1.0,10.0\n1200,0.05,1,Weibull,1.0,20.0\n"
    path = archive(tmp_path / "servegen.tar.xz", calm=calm, busy="0,50.0,1.0,Gamma,1.0,0.02\n")
    read = servegen.read_servegen(path, end_s=3600.0, most_per_client=500, mean_work_s=4.0, seed=1)
    assert [endpoint.name for endpoint in read.endpoints] == ["m-large/calm"], "the other one is never at zero"
    assert {endpoint.fingerprint for endpoint in read.endpoints} == {"m-large"}
    assert 60 < len(read.arrivals_s) < 130
    assert read.horizon_s < 1200.0
    with pytest.raises(InvalidTrace, match=r"m-large/bad:1"):
        servegen.read_servegen(
            archive(tmp_path / "bad.tar.xz", bad="0,x,1.0,Gamma,1.0,0.02\n"),
            end_s=3600.0, most_per_client=500, mean_work_s=4.0, seed=1,
        )  # fmt: skip


@pytest.mark.parametrize("costs", PROFILES.values(), ids=list(PROFILES))
def test_every_part_can_be_left_out(costs: Costs) -> None:
    """Three fine-tunes in turn on one slot: swaps are what saves boots, and only between tenants that share."""
    fine_tunes = [Endpoint(f"e{n}", f"tenant-{n}", "f") for n in range(3)]
    story = request_trace.build(fine_tunes, [(60.0 * n, n % 3, 1.0) for n in range(30)])
    at_one_price = [replace(variant, prices=[300.0], idles_s=[0.0]) for variant in variants.ours(costs, slots=1)]
    boots = {variant.name: next(variant.sweep(story)).boots for variant in at_one_price}
    few = {name for name, count in boots.items() if count == 1}
    assert {name for name in boots if name.startswith("without s") and name != "without sleep"} == set(boots) - few


def test_knative_keeps_for_its_window_and_its_grace_period() -> None:
    story = two_fine_tunes(*[(150.0 * n, 0, 1.0) for n in range(10)])
    boots = {point.knob: point.boots for point in variants.knative(story, PROFILES["cpu"])}
    assert (boots["60 s"], boots["120 s"]) == (10, 1)
