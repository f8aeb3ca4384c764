"""Models on a Hugging Face hub: huggingface_hub says which files a revision has, and how each may be fetched.

A file in the hub's Xet storage comes through hf-xet, every other one by plain HTTP ranges, and so do all where the hub
gives no access to its Xet storage. Either way the bytes pass through the store's own journal, cap and checks: the hub
names each weight file's sha256 and every other file's git hash.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from pilotlight_protocol.model_reference import ModelReference
from pilotlight_store.errors import SourceMissing, SourceUnavailable
from pilotlight_store.sources.http_answers import Probe
from pilotlight_store.sources.http_ranges import HttpRanges
from pilotlight_store.sources.source import Listing, RemoteFile
from pilotlight_store.sources.xet_ranges import XetConnection, XetRanges, decode_connection

LISTING_TIMEOUT_S = 30.0
MAX_TOKEN_BYTES = 64 * 1024
log = logging.getLogger(__name__)


class HubSource:
    """A model of the hub at `endpoint`; `token` is sent to the endpoint alone.

    `xet` replaces the Xet storage that the hub would name.
    """

    def __init__(
        self,
        reference: ModelReference,
        endpoint: str,
        token: str | None,
        ranges: HttpRanges,
        xet: XetRanges | None = None,
    ) -> None:
        self._uri = reference.uri
        self._repository = reference.path
        self._revision = reference.revision
        self._commit = ""
        self._endpoint = endpoint.rstrip("/")
        self._token = token
        self._api = HfApi(endpoint=self._endpoint, token=token or False)
        self._ranges = ranges
        self._xet = xet or XetRanges(self._connection)
        self._xet_hashes: dict[str, str | None] = {}

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def identity(self) -> str:
        return self.uri

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
        self._commit = str(info.sha)
        files = tuple(self._file(sibling) for sibling in info.siblings or ())
        card = info.card_data
        return Listing(files, revision=self._commit, license=str(card.license) if card and card.license else None)

    def blocks(self, file: RemoteFile, start: int, end: int) -> Iterator[memoryview]:
        xet_hash = self._xet_hash(file)
        if xet_hash is not None and self._xet.open():
            return self._xet.blocks(file, xet_hash, start, end)
        return self._ranges.blocks(file.locator, start, end, Probe(file.size_bytes, None, True))

    def abort(self) -> None:
        self._xet.abort()
        self._ranges.abort()

    def close(self) -> None:
        self._ranges.close()

    def _xet_hash(self, file: RemoteFile) -> str | None:
        """What the file is called in the Xet storage; None for one that is not there. Only large files are."""
        if file.sha256 is None:
            return None
        if file.locator not in self._xet_hashes:
            try:
                found = get_hf_file_metadata(
                    file.locator, token=self._token or False, timeout=LISTING_TIMEOUT_S, endpoint=self._endpoint
                ).xet_file_data
            # Whatever is wrong with this answer, the plain ranges can do without it, or say better what it is.
            except Exception as error:
                log.info("%s/%s: is it in Xet storage? %s; HTTP is used", self.uri, file.name, type(error).__name__)
                found = None
            self._xet_hashes[file.locator] = found.file_hash if found else None
        return self._xet_hashes[file.locator]

    def _connection(self) -> XetConnection | None:
        """Raises SourceRefused where the hub names a private address, VerificationFailed where it makes no sense."""
        route = f"{self._endpoint}/api/models/{self._repository}/xet-read-token/{self._commit}"
        try:
            body = self._ranges.read(route, MAX_TOKEN_BYTES)
        except SourceMissing:
            return None
        if body is None:
            return None
        headers: Mapping[str, str] = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        connection = decode_connection(body, route, headers)
        self._ranges.check(connection.endpoint)
        return connection

    def _file(self, sibling: Any) -> RemoteFile:
        if sibling.size is None:
            raise SourceUnavailable(f"{self.uri}: the hub does not say how large {sibling.rfilename} is")
        url = hf_hub_url(self._repository, sibling.rfilename, revision=self._commit, endpoint=self._endpoint)
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        git_sha1 = None if sibling.lfs else sibling.blob_id
        return RemoteFile(sibling.rfilename, int(sibling.size), url, sha256=sha256, git_sha1=git_sha1)
