"""Folders of the user's own images: a folder per identity, optionally in a folder per split."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.data.files import IMAGE_SUFFIXES, ending, is_clutter, walk_images
from benchmark.data.own_images import (
    SPLIT_NAMES,
    OwnImage,
    OwnImages,
    SameFiles,
    likely_split,
    listed,
    split_question,
    suspicious_names,
)
from benchmark.data.samples import Defect, Skipped, Suspicious

_TABLE = "list the images in a CSV file with the columns path, identity and camera"
_CAMERA_NAME = re.compile(r"(c|cam|camera|kamera|cctv|view)[ _-]?\d+|(cam|camera|kamera|cctv)([ _-]\w+|[a-z])")
"""Name of a folder that seems to hold the images of a camera."""
_CAMERA_IN_NAME = re.compile(r"(?:^|[_.-])c(?:am(?:era)?)?[_-]?(\d+)(?!\d)")
"""Part of a file's name that seems to name a camera, as in 0001_c1s1_000151_01.jpg."""
_MAX_WRAPPERS = 4
"""Number of folders around the images that are entered."""

_Places = Mapping[Path, tuple[str, ...]]
"""Image -> names of the folders between the source and the image."""


def read_folders(source: Path) -> OwnImages:
    """Read the images in `source`, whose folders name splits and identities.

    Upper case in the names of splits does not matter. A single folder around everything, as in archives, is entered.

    Raises:
        UserError: A folder cannot be listed.
    """
    root, beside = _without_wrapper(source)
    findings: list[Skipped | Suspicious | Defect] = list(beside)
    places: dict[Path, tuple[str, ...]] = {}
    for finding in walk_images(root):
        if isinstance(finding, Path):
            places[finding] = finding.relative_to(root).parts[:-1]
        else:
            findings.append(finding)
    splits = _splits({parts[0] for parts in places.values() if parts})
    images: list[OwnImage] = []
    for path, parts in places.items():
        split = splits.get(parts[0], "") if parts else ""
        identity = parts[1:2] if split else parts[:1]
        if identity:
            images.append(OwnImage(path, identity[0], "", split))
        else:
            findings.append(Defect(f"{path} is not in the folder of an identity"))
    findings += _doubtful_splits(root, places, splits)
    findings += _doubtful_depth(root, places, splits)
    findings += _cameras_in_names(images)
    findings += suspicious_names("identity", (image.identity for image in images))
    same_files = SameFiles()
    findings += filter(None, (same_files.finding(image, str(image.path)) for image in images))
    names = [_described(name, split) for name, split in sorted(splits.items())]
    read = [f"folders {listed(names)}, with a folder per identity" if names else "a folder per identity"]
    if root != source:
        read.insert(0, f"the only folder, {root.relative_to(source)}")
    return OwnImages(root, tuple(images), tuple(findings), tuple(read), no_cameras="folders do not name cameras")


def _without_wrapper(source: Path) -> tuple[Path, list[Skipped]]:
    """Return the folder that holds splits or identities, and the files beside it.

    A single folder is entered if there are no images beside it and it has folders in it. A split or a link is not.
    """
    beside: list[Skipped] = []
    for _ in range(_MAX_WRAPPERS):
        content = [path for path in source.iterdir() if not is_clutter(path.name)] if source.is_dir() else []
        folders = [path for path in content if path.is_dir()]
        files = [path for path in content if path not in folders]
        if len(folders) != 1 or likely_split(folders[0].name) or folders[0].is_symlink():
            break
        if any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
            break
        if not any(path.is_dir() and not is_clutter(path.name) for path in folders[0].iterdir()):
            break
        source = folders[0]
        beside += [Skipped("beside the only folder", ending(path.name)) for path in files]
    return source, beside


def _splits(names: set[str]) -> dict[str, str]:
    """Return name -> split of the folders that are named like a split, in any case."""
    return {name: name.casefold() for name in names if name.casefold() in SPLIT_NAMES}


def _described(name: str, split: str) -> str:
    return split if name == split else f"{split} (written {name!r})"


def _doubtful_splits(root: Path, places: _Places, splits: Mapping[str, str]) -> Iterator[Defect]:
    """Yield folders whose names are near those of splits, and folders next to splits."""
    for split in SPLIT_NAMES:
        names = sorted(name for name, meant in splits.items() if meant == split)
        if len(names) > 1:
            yield Defect(f"{root}: {' and '.join(names)} are the same split: keep one of them")
    counts = Counter(parts[0] for parts in places.values() if parts)
    deep = {parts[0] for parts in places.values() if len(parts) > 1}
    others = sorted(counts.keys() - splits.keys())
    if splits:
        for name in others:
            yield Defect(
                f"{root / name}: this folder of {counts[name]:,} images is beside {listed(sorted(splits))}, but is not "
                f"a split{split_question(name)} Move it away if it does not belong to the dataset"
            )
    elif others:
        near = [name for name in others if likely_split(name)]
        for name in near:
            if len(near) == len(others) or name in deep:
                yield Defect(
                    f"{root / name}: this folder looks like a split, but would count as an identity"
                    f"{split_question(name)} Rename it; if it is an identity, {_TABLE}"
                )


def _doubtful_depth(root: Path, places: _Places, splits: Mapping[str, str]) -> Iterator[Suspicious | Defect]:
    """Yield what the names of identities and of the folders in them suggest: cameras, or deeper identities."""
    inner: defaultdict[str, set[str]] = defaultdict(set)
    example: Path | None = None
    for path, parts in places.items():
        names = parts[1:] if parts and parts[0] in splits else parts
        if names:
            inner[names[0]] |= set(names[1:2])
        if len(names) > 1:
            example = path
    cameras = [name for name in sorted(inner) if _CAMERA_NAME.fullmatch(name.casefold())]
    if cameras and len(cameras) == len(inner):
        text = f"{root}: the folders {listed(cameras)} look like cameras, but would count as identities"
        yield Defect(f"{text}: {_TABLE}") if example else Suspicious(f"{text}: if they are cameras, {_TABLE}")
        return
    if example is None:
        return
    names_inside = Counter(name for names in inner.values() for name in names)
    place = example.relative_to(root)
    if inner_splits := sorted(name for name in names_inside if name.casefold() in SPLIT_NAMES):
        yield Defect(
            f"{root}: the folders in identities are named like splits ({listed(inner_splits)}), such as {place}: give "
            f"the folder that holds the splits as path, or {_TABLE}"
        )
    elif all(_CAMERA_NAME.fullmatch(name.casefold()) for name in names_inside):
        yield Suspicious(
            f"{root}: the folders in identities look like cameras, such as {place}. They are not read, and the camera "
            f"rule is off: {_TABLE}"
        )
    elif any(count > 1 for count in names_inside.values()):
        yield Suspicious(
            f"{root}: several identities have folders of the same name, such as {place}. The outer folder counts as "
            f"the identity; if the inner one is it, {_TABLE}"
        )
    else:
        yield Suspicious(
            f"{root}: images are in folders within identities, such as {place}: the outer one is the identity"
        )


def _cameras_in_names(images: Sequence[OwnImage]) -> Iterator[Suspicious]:
    matches = [match for image in images if (match := _CAMERA_IN_NAME.search(image.path.stem.casefold()))]
    if matches and len(matches) == len(images) and len({match[1] for match in matches}) > 1:
        yield Suspicious(
            f"file names such as {images[0].path.name} seem to name cameras. They are not read, and the camera rule is "
            f"off: {_TABLE}"
        )
