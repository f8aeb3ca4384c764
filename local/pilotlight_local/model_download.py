"""Downloads one model of the Hugging Face hub into a directory; `python -m pilotlight_local.model_download REPO DIR`.

Runs as a process of its own, so that the platform neither imports the hub's client nor waits for it. Prints JSON lines
`{"percent": n}`. Weights other than safetensors are left out (a pickle can run code); interrupted downloads resume.
"""

import json
import sys
import threading
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*"]
REPORT_PERIOD_S = 1.0


def report(directory: Path, total_bytes: int, finished: threading.Event) -> None:
    """Print the share of bytes on disk until `finished`."""
    while not finished.wait(REPORT_PERIOD_S):
        done_bytes = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
        print(json.dumps({"percent": min(99, done_bytes * 100 // max(1, total_bytes))}), flush=True)


def download(repository: str, directory: Path) -> None:
    """Fetch `org/name[@revision]` into `directory`. Raises the hub client's errors."""
    name, _, revision = repository.partition("@")
    info = HfApi().model_info(name, revision=revision or None, files_metadata=True)
    weights = [file for file in info.siblings or () if file.rfilename.endswith(".safetensors")]
    if not weights:
        raise SystemExit(f"{name} has no safetensors weights; other formats are not loaded")
    finished = threading.Event()
    total_bytes = sum(file.size or 0 for file in weights)
    reporter = threading.Thread(target=report, args=(directory, total_bytes, finished), daemon=True)
    reporter.start()
    try:
        snapshot_download(name, revision=info.sha, local_dir=directory, allow_patterns=WANTED)
    finally:
        finished.set()
        reporter.join()


def main() -> None:
    repository, directory = sys.argv[1:]
    try:
        download(repository, Path(directory))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise SystemExit(f"{repository} is not on the hub, or needs a token (HF_TOKEN): {error}") from error
    except (HfHubHTTPError, OSError) as error:
        raise SystemExit(f"the hub cannot be reached or refused: {error}") from error


if __name__ == "__main__":
    main()
