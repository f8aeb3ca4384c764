"""Logs of pods: what is shown is of the pod that runs now, and errors in it reach the terminal once."""

from pathlib import Path

from pilotlight_local.pods.log_watch import MOST_LINES, LogWatch
from pilotlight_local.pods.pod_logs import newest_logs, read_log, rotated, start_afresh
from pilotlight_local.state_dir import StateDir

LOST = "2026-11-23T02:43:34.123Z ERROR pilotlight.engine: the engine was lost: it was killed by signal 9\n"
POOL = "2026-11-23 02:43:34,123 WARNING pilotlight_pool.coordinator.slot_driver: slot cpu:0: it died\n"
CALM = "2026-11-23T02:43:34.123Z INFO pilotlight.http: POST /v2 200 1.0 ms id=ERROR\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as log:
        log.write(text)


def test_a_watch_tells_each_serious_line_once(tmp_path: Path) -> None:
    log = tmp_path / "pod.log"
    append(log, LOST)
    watch = LogWatch(log, ["ERROR", "WARNING"])
    assert watch.news() == []
    append(log, CALM + "Traceback ERROR pilotlight\n" + LOST + POOL)
    assert watch.news() == ["the engine was lost: it was killed by signal 9", "slot cpu:0: it died"]
    assert watch.news() == []
    append(log, LOST)
    assert LogWatch(log, ["WARNING"]).news() == []


def test_of_a_reason_with_output_the_first_line_is_told(tmp_path: Path) -> None:
    log = tmp_path / "pod.log"
    watch = LogWatch(log, ["WARNING"])
    append(
        log, POOL + "  | Traceback\n  | 2026-11-23T02:43:34.123Z ERROR pilotlight.engine: said by a tenant's model\n"
    )
    assert watch.news() == ["slot cpu:0: it died"]


def test_half_a_line_is_told_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "pod.log"
    watch = LogWatch(log, ["ERROR"])
    assert watch.news() == []
    append(log, LOST[:60])
    assert watch.news() == []
    append(log, LOST[60:])
    assert watch.news() == ["the engine was lost: it was killed by signal 9"]


def test_a_log_that_was_rotated_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "pod.log"
    append(log, CALM * 10)
    watch = LogWatch(log, ["ERROR"])
    log.rename(rotated(log))
    append(log, LOST)
    assert len(watch.news()) == 1


def test_a_flood_of_errors_is_cut_short(tmp_path: Path) -> None:
    log = tmp_path / "pod.log"
    watch = LogWatch(log, ["ERROR"])
    append(log, LOST * 100)
    news = watch.news()
    assert len(news) == MOST_LINES + 1
    assert news[0] == "(95 more are in the log)"


def test_a_pod_of_the_same_name_starts_with_an_empty_log(tmp_path: Path) -> None:
    log = tmp_path / "demo-predictor-00001-deployment-1.log"
    append(log, "before\n")
    append(rotated(log), "long before\n")
    start_afresh(log)
    assert newest_logs(tmp_path) == []
    append(log, "now\n")
    assert read_log(log) == "now\n"


def test_a_platform_shows_no_logs_of_the_one_before_it_but_keeps_them(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    logs = state.component_logs("default", "demo", "predictor")
    for run in ("first", "second", "third"):
        with state.lock(8080):
            assert newest_logs(logs) == []
            for folder in (logs, state.pool_logs):
                folder.mkdir(parents=True)
                append(folder / "a.log", run)
        assert read_log(logs / "a.log") == run
    assert (tmp_path / "logs.before/default/demo/predictor/a.log").read_text() == "second"
    assert (tmp_path / "pool/logs.before/a.log").read_text() == "second"
