"""Models on a Hugging Face hub: huggingface_hub says which files a revision has, the range reader fetches them.

The hub's own client (and hf-xet below it) writes files by itself, without a journal, a cap or a check of addresses; its
plain HTTP addresses, which every repository has, give the store all three. The hub names each weight file's sha256
and every other file's git hash: both are checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from pilotlight_warmup.store.errors import SourceInvalid, SourceMissing, SourceUnavailable
from pilotlight_warmup.store.http_ranges import HttpRanges, Probe
from pilotlight_warmup.store.source import Listing, RemoteFile

DEFAULT_ENDPOINT = "https://huggingface.co"
LISTING_TIMEOUT_S = 30.0


class HubSource:
    """`hf://org/name[@revision]` at `endpoint`; `token` is sent to the endpoint alone."""

    def __init__(self, uri: str, endpoint: str, token: str | None, ranges: HttpRanges) -> None:
        parts = urlsplit(uri)
        repository, _, revision = f"{parts.netloc}{parts.path}".strip("/").partition("@")
        if repository.count("/") != 1 or not all(repository.split("/")):
            raise SourceInvalid(f"{uri}: write hf://organisation/name or hf://organisation/name@revision")
        self._repository = repository
        self._revision = revision or None
        self._endpoint = endpoint.rstrip("/")
        self._api = HfApi(endpoint=self._endpoint, token=token or False)
        self._ranges = ranges

    @property
    def uri(self) -> str:
        return f"hf://{self._repository}" + (f"@{self._revision}" if self._revision else "")

    def listing(self) -> Listing:
        try:
            info = self._api.model_info(
                self._repository, revision=self._revision, files_metadata=True, timeout=LISTING_TIMEOUT_S
            )
        except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
            raise SourceMissing(f"{self.uri} is not on the hub, or needs a token (set HF_TOKEN)") from error
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in {401, 403, 404}:
                raise SourceMissing(f"{self.uri} is not on the hub, or needs a token (set HF_TOKEN)") from error
            raise SourceUnavailable(f"{self.uri}: the hub answers {status}") from error
        # The client's transport (httpx) is not ours to name: whatever else it raises is a failed connection.
        except Exception as error:
            raise SourceUnavailable(f"{self.uri}: the hub cannot be reached ({type(error).__name__})") from error
        files = tuple(self._file(sibling, str(info.sha)) for sibling in info.siblings or ())
        card = info.card_data
        return Listing(files, revision=str(info.sha), license=str(card.license) if card and card.license else None)

    def blocks(self, file: RemoteFile, start: int, end: int) -> Iterator[memoryview]:
        return self._ranges.blocks(file.locator, start, end, Probe(file.size_bytes, None, True))

    def abort(self) -> None:
        self._ranges.abort()

    def close(self) -> None:
        self._ranges.close()

    def _file(self, sibling: Any, commit: str) -> RemoteFile:
        if sibling.size is None:
            raise SourceUnavailable(f"{self.uri}: the hub does not say how large {sibling.rfilename} is")
        url = hf_hub_url(self._repository, sibling.rfilename, revision=commit, endpoint=self._endpoint)
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        git_sha1 = None if sibling.lfs else sibling.blob_id
        return RemoteFile(sibling.rfilename, int(sibling.size), url, sha256=sha256, git_sha1=git_sha1)
