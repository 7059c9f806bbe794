"""Fetching the archives of sets that need no agreement."""

import hashlib
import shutil
from pathlib import Path

import torch
from rich.filesize import decimal

from benchmark.data.retrieval_dataset import RetrievalDataset
from benchmark.errors import UserError


def fetch(dataset: RetrievalDataset, root: Path) -> Path:
    """The dataset's archive in `root`/downloads, fetched unless it is there, and compared with its SHA-256.

    Raises:
        UserError: The set may not be fetched, cannot be reached, or what came is not the archive; nothing is kept then.
    """
    download = dataset.card.download
    if download is None:
        raise UserError(f"{dataset.card.title} cannot be fetched by a tool. {dataset.card.obtain}")
    target = root / "downloads" / download.name
    if target.is_file():
        with target.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != download.sha256:
                raise UserError(f"{target} is not the published archive: delete it, it is fetched anew")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(target.parent).free
    if download.size > free:
        raise UserError(f"{download.name} has {decimal(download.size)}, but {target.parent} has {decimal(free)} left")
    try:
        torch.hub.download_url_to_file(download.url, str(target), hash_prefix=download.sha256)
    except (OSError, RuntimeError) as error:  # the network's and the disk's; a wrong hash
        raise UserError(
            f"{download.url} could not be fetched ({error}). Fetch it by other means and give its file: "
            f"benchmark data prepare {dataset.name} FILE"
        ) from error
    return target
