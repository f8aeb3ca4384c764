"""Prefetch beside curl, aria2c and `hf download`: throughput and client CPU per GB from local nginx, S3 and hub.

One run on one machine: contenders take turns, every round anew, and medians and pairwise ratios are shown. Only
Pilotlight verifies and publishes (`curl + openssl sha256` shows what verifying costs the others; coreutils' sha256sum
does not use the CPU's instructions for it everywhere). `agent` is a process that already runs, `command` the whole
`pilotlight prefetch` with Python's start and the flush to disk at the end.
A virtual machine may have given its free memory back to the host, and whoever writes first pays for getting it again,
several times what the write costs: so memory is taken and freed before every run. What other processes take of the CPU
is measured between the rounds and reported.
Needs nginx, curl and aria2c (Debian: nginx-light, curl, aria2), hf and moto (the dev extra); a missing one is left out.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from processes import free_port

OUT = Path(__file__).parent / "out"
COMMIT = "c0ffee" + "0" * 34
REPOSITORY = "org/name"
VERIFIED = "curl + openssl sha256"
S3 = {
    "access_key_id": "testing",
    "secret_access_key": "testing",
    "region": "us-east-1",
    "virtual_hosted_style_request": "false",
}


@dataclass(frozen=True)
class Contender:
    """Downloads a model into `folder`; returns wall and CPU seconds of the client."""

    name: str
    run: Callable[[Path], tuple[float, float]]


@dataclass(frozen=True)
class Figure:
    server: str
    contender: str
    gb_per_s: list[float]
    cpu_s_per_gb: list[float]
    others_cores: list[float]


def make_model(folder: Path, shards: int, shard_bytes: int) -> int:
    """Random weights in `shards` files; returns all bytes."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
    index = {}
    for number in range(shards):
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        entry = {f"w{number}": {"dtype": "U8", "shape": [shard_bytes], "data_offsets": [0, shard_bytes]}}
        header = json.dumps(entry).encode()
        with (folder / name).open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _ in range(shard_bytes // 2**20):
                file.write(os.urandom(2**20))
        index[f"w{number}"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return sum(path.stat().st_size for path in folder.iterdir())


def timed(*commands: list[str], env: dict[str, str] | None = None) -> tuple[float, float]:
    """Wall and CPU seconds of the commands, one after the other."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, timeout=300)
    wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def agent(uri: str, settings: dict[str, str]) -> Callable[[Path], tuple[float, float]]:
    def run(folder: Path) -> tuple[float, float]:
        command = [sys.executable, __file__, "--agent", uri, str(folder), json.dumps(settings)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300)
        wall_s, cpu_s = json.loads(done.stdout)
        return wall_s, cpu_s

    return run


def run_agent(uri: str, folder: Path, settings: dict[str, str]) -> None:
    """In a process of its own: everything is imported and warm before the clock starts."""
    from pilotlight_store import SourceSettings, Store, StoreSettings
    from pilotlight_store.sources import hub, object_store  # noqa: F401
    from pilotlight_store.sources.addresses import AddressRules

    sources = SourceSettings(
        addresses=AddressRules(allow_private=True),
        hub_endpoint=settings.pop("hub", "http://127.0.0.1"),
        object_store_options=settings,
    )
    with Store(StoreSettings(folder, sources=sources)) as store:
        before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        store.ensure(uri)
        wall_s, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps([wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime]))


def command_line(uri: str, port: int, *options: str) -> Callable[[Path], tuple[float, float]]:
    code = "from pilotlight_store.commands import prefetch; prefetch()"
    arguments = [sys.executable, "-c", code, uri, "--allow-host", f"127.0.0.1:{port}", *options]
    return lambda folder: timed([*arguments, "--store", str(folder)])


def http_rivals(urls: list[str], names: list[str]) -> Iterator[Contender]:
    if shutil.which("curl"):
        plain = ["curl", "-sSf", "--create-dirs"]
        remote = [part for url in urls for part in ("-O", url)]
        yield Contender("curl", lambda folder: timed([*plain, "--output-dir", str(folder), *remote]))
        parallel = [*plain, "-Z", "--parallel-max", "4"]
        yield Contender("curl -Z", lambda folder: timed([*parallel, "--output-dir", str(folder), *remote]))
        if shutil.which("openssl"):
            digest = ["openssl", "dgst", "-sha256"]
            yield Contender(
                VERIFIED,
                lambda folder: timed(
                    [*plain, "--output-dir", str(folder), *remote], [*digest, *(str(folder / name) for name in names)]
                ),
            )
    if shutil.which("aria2c"):
        options = ["aria2c", "-q", "-x4", "-s4", "-j4", "-Z", "--file-allocation=falloc"]
        yield Contender("aria2c", lambda folder: timed([*options, "-d", str(folder), *urls]))


@contextmanager
def started(command: list[str], ready_url: str, cwd: Path) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=cwd)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(ready_url, timeout=5).close()
                break
            except OSError as error:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise SystemExit(f"{command[0]} did not start: {error}") from error
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(20)


def nginx_config(work: Path, port: int) -> Path:
    """Serves the model as files, and as a hub: its API's answers are files too."""
    model, api = work / "model", work / "api"
    api.mkdir()
    files = [{"rfilename": path.name, "size": path.stat().st_size} for path in model.iterdir()]
    info = {"id": REPOSITORY, "sha": COMMIT, "siblings": files, "tags": []}
    tree = [
        {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40} for path in model.iterdir()
    ]
    (api / "info.json").write_text(json.dumps(info))
    (api / "tree.json").write_text(json.dumps(tree))
    user = "user root;" if os.geteuid() == 0 else ""
    temporary = " ".join(f"{kind}_temp_path {work};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = work / "nginx.conf"
    config.write_text(f"""daemon off; {user} worker_processes auto; pid {work}/nginx.pid; error_log {work}/error.log;
events {{}}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000; {temporary} types {{}}
  server {{
    listen 127.0.0.1:{port}; root {work};
    location /api/ {{
      default_type application/json; rewrite /tree/ /api/tree.json break; rewrite ^ /api/info.json break;
    }}
    location ~ ^/{REPOSITORY}/resolve/[^/]+/(.+)$ {{ add_header X-Repo-Commit {COMMIT}; alias {model}/$1; }}
  }}
}}
""")
    return config


def take_memory(size_bytes: int) -> None:
    with mmap.mmap(-1, size_bytes) as memory:
        for position in range(0, size_bytes, mmap.PAGESIZE):
            memory[position] = 1


def cores_taken(seconds: float = 0.5) -> float:
    """How many cores all processes together keep busy while this one sleeps."""

    def ticks() -> int:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
        return user + nice + system + irq + softirq

    before, started = ticks(), time.perf_counter()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.perf_counter() - started)


def measure(server: str, contenders: list[Contender], size_bytes: int, rounds: int, scratch: Path) -> list[Figure]:
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    cpu: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    taken: list[float] = []
    for number in range(rounds + 1):
        taken.append(cores_taken())
        for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
            folder = scratch / "download"
            take_memory(2 * size_bytes)
            try:
                wall_s, cpu_s = contender.run(folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if number:  # the first round fills caches
                speeds[contender.name].append(size_bytes / 1e9 / wall_s)
                cpu[contender.name].append(cpu_s / (size_bytes / 1e9))
            print(f"{server:8} {contender.name:22} {size_bytes / 1e9 / wall_s:6.2f} GB/s", file=sys.stderr)
    return [Figure(server, name, speeds[name], cpu[name], taken) for name in speeds]


def from_nginx_and_hub(work: Path, scratch: Path, rounds: int, shard_bytes: int) -> list[Figure]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if nginx is None:
        print("nginx is missing: no figures for nginx and the hub", file=sys.stderr)
        return []
    size_bytes = make_model(work / "model", 4, shard_bytes)
    names = sorted(path.name for path in (work / "model").iterdir())
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    config = nginx_config(work, port)
    with started([nginx, "-c", str(config), "-p", str(work)], f"{origin}/model/config.json", work):
        uri = f"{origin}/model"
        ours = [Contender("pilotlight agent", agent(uri, {})), Contender("pilotlight command", command_line(uri, port))]
        figures = measure(
            "nginx", [*ours, *http_rivals([f"{uri}/{name}" for name in names], names)], size_bytes, rounds, scratch
        )
        uri = f"hf://{REPOSITORY}"
        contenders = [
            Contender("pilotlight agent", agent(uri, {"hub": origin})),
            Contender("pilotlight command", command_line(uri, port, "--hub", origin)),
        ]
        hf = Path(sys.executable).with_name("hf")
        if hf.exists():
            env = {**os.environ, "HF_ENDPOINT": origin, "HF_HOME": str(scratch / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}
            download = [str(hf), "download", REPOSITORY, "--local-dir"]
            contenders.append(Contender("hf download", lambda folder: timed([*download, str(folder)], env=env)))
        figures += measure("hub", contenders, size_bytes, rounds, scratch)
    shutil.rmtree(work / "model")
    return figures


def from_s3(work: Path, scratch: Path, rounds: int, shard_bytes: int) -> list[Figure]:
    import obstore
    from obstore.store import S3Store

    size_bytes = make_model(work / "s3", 4, shard_bytes)
    names = sorted(path.name for path in (work / "s3").iterdir())
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    code = "from moto.server import main; import sys; main(sys.argv[1:])"
    with started([sys.executable, "-W", "ignore", "-c", code, "-p", str(port)], f"{endpoint}/moto-api/data.json", work):
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/models", method="PUT"), timeout=10).close()
        store = S3Store("models", client_options={"allow_http": True}, endpoint=endpoint, **S3)
        for name in names:
            obstore.put(store, f"m/{name}", (work / "s3" / name).read_bytes(), use_multipart=False)
        ours = Contender("pilotlight agent", agent("s3://models/m", {"endpoint": endpoint, **S3}))
        urls = [obstore.sign(store, "GET", f"m/{name}", timedelta(hours=1)) for name in names]
        rivals = list(http_rivals(urls, names))
        return measure("s3", [ours, *rivals], size_bytes, rounds, scratch)


def ratio(figures: list[Figure], server: str, verified: bool) -> str | None:
    """Ours beside the best rival: of the medians, and the median of pairs."""
    ours = next(figure for figure in figures if (figure.server, figure.contender) == (server, "pilotlight agent"))
    rivals = [
        figure
        for figure in figures
        if figure.server == server
        and not figure.contender.startswith("pilotlight")
        and (not verified or figure.contender == VERIFIED)
    ]
    if not rivals:
        return None
    best = max(rivals, key=lambda figure: statistics.median(figure.gb_per_s))
    pairs = [a / b for a, b in zip(ours.gb_per_s, best.gb_per_s, strict=True)]
    medians = statistics.median(ours.gb_per_s) / statistics.median(best.gb_per_s)
    others = statistics.median(ours.others_cores)
    return (
        f"{server}: {medians:.2f}× {best.contender}, pair by pair {statistics.median(pairs):.2f}× "
        f"({min(pairs):.2f}–{max(pairs):.2f}); others kept {others:.1f} of {os.cpu_count()} cores busy"
    )


def report(figures: list[Figure]) -> None:
    OUT.mkdir(exist_ok=True)
    lines = ["| server | client | GB/s, median | lowest–highest | client CPU s/GB |", "|---|---|---|---|---|"]
    for figure in figures:
        speeds = figure.gb_per_s
        lines.append(
            f"| {figure.server} | {figure.contender} | {statistics.median(speeds):.2f} | "
            f"{min(speeds):.2f}–{max(speeds):.2f} | {statistics.median(figure.cpu_s_per_gb):.2f} |"
        )
    for server in dict.fromkeys(figure.server for figure in figures):
        lines += [f"\n{line}" for verified in (False, True) if (line := ratio(figures, server, verified))]
    table = "\n".join(lines)
    print(table)
    (OUT / "prefetch.md").write_text(table + "\n")
    (OUT / "prefetch.json").write_text(json.dumps([figure.__dict__ for figure in figures], indent=1))
    draw(figures)


def draw(figures: list[Figure]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    picture, axes = pyplot.subplots(1, 2, figsize=(11, 0.36 * len(figures) + 1.2), sharey=True, layout="constrained")
    labels = [f"{figure.contender}  ({figure.server})" for figure in figures]
    colours = ["#d9480f" if figure.contender.startswith("pilotlight") else "#868e96" for figure in figures]
    for axis, title, values in (
        (axes[0], "GB/s (more is better)", [figure.gb_per_s for figure in figures]),
        (axes[1], "client CPU seconds per GB (less is better)", [figure.cpu_s_per_gb for figure in figures]),
    ):
        axis.barh(labels, [statistics.median(value) for value in values], color=colours)
        for row, value in enumerate(values):
            axis.plot([min(value), max(value)], [row, row], color="black", linewidth=1)
        axis.set_title(title, fontsize=10)
    axes[0].invert_yaxis()
    picture.savefig(OUT / "prefetch.png", dpi=130)


def main() -> None:
    if sys.argv[1:2] == ["--agent"]:
        run_agent(sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shard-mib", type=int, default=192, help="MiB per file, of four, from nginx and the hub")
    parser.add_argument("--s3-shard-mib", type=int, default=192, help="MiB per file, of four, from the S3 server")
    parser.add_argument("--folder", type=Path, help="where clients write  [default: a temporary folder]")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as work,
        tempfile.TemporaryDirectory(dir=options.folder) as scratch,
    ):
        Path(work).chmod(0o755)
        figures = from_nginx_and_hub(Path(work), Path(scratch), options.rounds, options.shard_mib * 2**20)
        figures += from_s3(Path(work), Path(scratch), options.rounds, options.s3_shard_mib * 2**20)
    report(figures)


if __name__ == "__main__":
    main()
