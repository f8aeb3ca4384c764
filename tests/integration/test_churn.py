"""Forty seconds of churn with real engines: fifty endpoints on two slots, something is killed every four seconds.

A machine with other work does less in forty seconds: there it takes longer until as much has happened.

The ten-minute form is benchmarks/churn.py; models, oracles, driver and judgement are the same.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from server_ports import free_port

from churn_harness.driver import Churn, ChurnPlan
from churn_harness.models import make_endpoints, trained_endpoints, twin
from churn_harness.oracle import booted_answers
from churn_harness.pool import ChurnPool, ThinPredictor

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
RANDOM, AWQ, THIN, TWINS = 44, 1, 2, 2
COMPLETED, KILLED = 20, {"engine", "service", "predictor"}


async def test_whatever_is_killed_every_completed_answer_is_the_models_own(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Short, because a socket's path is.
    folder = tmp_path_factory.mktemp("churn")
    random = make_endpoints(folder / "models", RANDOM, AWQ, THIN, seed=7)
    trained = trained_endpoints()
    booted = await booted_answers(_pool(folder, "oracle", "--isolation", "reset"), [random[0], random[-1], *trained])
    plain = random[0]
    assert booted[plain.name].answers == plain.answers, "vLLM and plain torch do not agree; there is no oracle"
    known = [each if each.answers is not None else booted[each.name] for each in [*random, *trained]]
    twins = [(each, twin(each)) for each in known[THIN : THIN + TWINS]]
    endpoints = [*known, *(other for _, other in twins)]
    assert len({each.answers for each in endpoints}) == len({each.folder for each in endpoints})
    assert min(sum(each.judged) for each in endpoints) >= 8, "too little of an answer is free of near-ties"

    pool = _pool(folder, "pool")
    await pool.start()
    thin = [ThinPredictor(each, free_port(), pool.url, folder / f"{each.name}.log") for each in endpoints[:THIN]]
    plan = ChurnPlan(
        duration_s=40,
        kill_every_s=4,
        kinds=("engine", "service", "predictor", "stream", "pause", "zygote"),
        curious=0.08,
        answers_per_kill=4,
        enough=lambda tally: tally.completed.total() >= COMPLETED and set(tally.kills) >= KILLED,
        patience_s=160.0,
    )
    tally = await Churn(pool, thin, endpoints, plan, twins).run()

    assert not tally.wrong, "\n".join([*tally.wrong[:10], pool.logs[-1].read_text()[-3000:]])
    completed = tally.completed.total()
    assert completed >= COMPLETED, tally
    assert tally.failures.total() < completed, tally
    assert set(tally.kills) >= KILLED, tally.kills


def _pool(folder: Path, name: str, *flags: str) -> ChurnPool:
    stops = ("--keep_alive_price_s", "10", "--uncontested_keep_s", "0")
    return ChurnPool(folder / name, free_port(), 2, flags=(*stops, *flags))
