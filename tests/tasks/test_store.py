"""The file of decoded images: what it holds, and what kills, damage and other processes do to it."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picture_files import SIDE, bad_files, class_folders, encoded, pixels, write

from metarun.errors import MetarunError
from metarun.tasks.images import store as module
from metarun.tasks.images.decoding import Look, decode
from metarun.tasks.images.listing import Listing, listed
from metarun.tasks.images.store import (
    DamagedStoreError,
    check_store,
    describe,
    opened,
    prepared,
    store_path,
)

LOOK = Look(SIDE)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Listing:
    """Fifty pictures and the bad ones, for blocks of eight, in a cache of the test's own."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_BLOCK", 8)
    root = class_folders(tmp_path / "pictures", {"a": 20, "b": 30})
    for name, (content, _) in bad_files().items():
        write(root / "c" / name, content)
    return listed(root)


def expected(listing: Listing, left_out: dict[int, str]) -> torch.Tensor:
    """All images as decoded one after another; zeros where there is none."""
    nothing = np.zeros(LOOK.shape, np.uint8)
    each = [nothing if i in left_out else decode(listing.read(i), LOOK) for i in range(len(listing))]
    return torch.from_numpy(np.stack(each))


def test_it_holds_what_was_decoded(listing: Listing) -> None:
    store = prepared("pictures", listing, LOOK)
    assert torch.equal(store.images, expected(listing, store.left_out))
    assert {listing.paths[place].removeprefix("c/") for place in store.left_out} == set(bad_files())
    for place, why in store.left_out.items():
        assert bad_files()[listing.paths[place].removeprefix("c/")][1] in why
    assert check_store(store.path) == len(listing)
    assert sorted(path.name for path in store.path.parent.iterdir()) == ["pictures.images", "pictures.lock"]


def test_it_is_made_once(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared("pictures", listing, LOOK)
    monkeypatch.setattr(module, "decode", None)
    prepared("pictures", listing, LOOK)


@pytest.mark.parametrize("change", ["another", "larger", "later", "look"])
def test_and_again_when_something_changes(listing: Listing, change: str) -> None:
    path = prepared("pictures", listing, LOOK).path
    before, look = path.stat().st_ino, LOOK
    first = listing.root / "a" / "000.png"
    if change == "another":
        write(listing.root / "a" / "new.png", encoded(pixels(99)))
    elif change == "larger":
        write(first, encoded(pixels(77)))
    elif change == "later":
        os.utime(first, (1, 1))
    else:
        look = Look(SIDE, fit="pad")
    changed = listed(listing.root)
    store = prepared("pictures", changed, look)
    assert store.path.stat().st_ino != before
    assert torch.equal(store.images, expected(changed, store.left_out))


def test_an_open_store_outlives_the_next_one(listing: Listing) -> None:
    store = prepared("pictures", listing, LOOK)
    copy = store.images.clone()
    write(listing.root / "a" / "000.png", encoded(pixels(77)))
    prepared("pictures", listed(listing.root), LOOK)
    assert torch.equal(store.images, copy)


@pytest.mark.parametrize("place", [0, 3, 100, -3, -30])
def test_damage_is_noticed(listing: Listing, place: int) -> None:
    path = prepared("pictures", listing, LOOK).path
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    if place == 100:  # only the checksums tell
        with pytest.raises(DamagedStoreError, match="damaged in block 0"):
            check_store(path)
        return
    assert opened(path, describe(listing, LOOK)) is None
    store = prepared("pictures", listing, LOOK)
    assert torch.equal(store.images, expected(listing, store.left_out))


@pytest.mark.parametrize("size", [0, 5, 20, 4000])
def test_a_file_that_is_cut_off_is_made_again(listing: Listing, size: int) -> None:
    path = prepared("pictures", listing, LOOK).path
    os.truncate(path, size)
    assert opened(path, describe(listing, LOOK)) is None
    store = prepared("pictures", listing, LOOK)
    assert torch.equal(store.images, expected(listing, store.left_out))


def _slowly(listing: Listing, counter: Path, seconds: float) -> None:
    """Prepare with a pause, and a letter in a file, for each image."""

    def slow(content: bytes, look: Look) -> Any:
        with counter.open("a") as file:
            file.write("x")
        time.sleep(seconds)
        return decode(content, look)

    module.decode = slow  # type: ignore[assignment]
    prepared("pictures", listing, LOOK)
    os._exit(0)


def test_killed_twenty_times_it_goes_on_where_it_was(listing: Listing, tmp_path: Path) -> None:
    counter, chance = tmp_path / "decoded", random.Random(0)
    kills = 0
    while kills < 20:
        process = FORK.Process(target=_slowly, args=(listing, counter, 0.004))
        process.start()
        time.sleep(chance.uniform(0.0, 0.06))
        process.kill()
        process.join()
        if opened(store_path("pictures"), describe(listing, LOOK)):
            store_path("pictures").unlink()  # it was done: from the start
        kills += 1
    store = prepared("pictures", listing, LOOK)
    assert torch.equal(store.images, expected(listing, store.left_out))
    assert check_store(store.path) == len(listing)


def test_blocks_that_are_there_are_not_made_again(listing: Listing, tmp_path: Path) -> None:
    counter = tmp_path / "decoded"
    process = FORK.Process(target=_slowly, args=(listing, counter, 0.01))
    process.start()
    while not counter.exists() or counter.stat().st_size < 30:
        time.sleep(0.002)
    process.kill()
    process.join()
    before = counter.stat().st_size
    rest = FORK.Process(target=_slowly, args=(listing, counter, 0.0))
    rest.start()
    rest.join()
    # Twenty-four of the thirty were in whole blocks; two more blocks may have begun.
    assert counter.stat().st_size - before <= len(listing) - 24
    store = prepared("pictures", listing, LOOK)
    assert torch.equal(store.images, expected(listing, store.left_out))


def test_jobs_that_start_at_once_prepare_it_once(listing: Listing, tmp_path: Path) -> None:
    counter = tmp_path / "decoded"
    jobs = [FORK.Process(target=_slowly, args=(listing, counter, 0.002)) for _ in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 8
    assert counter.stat().st_size == len(listing)


def test_a_cache_that_cannot_be_written_is_named(
    listing: Listing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "file"))
    with pytest.raises(MetarunError, match=r"cannot be written .*METARUN_CACHE=FOLDER names another"):
        prepared("pictures", listing, LOOK)


def test_a_full_disk_leaves_what_was_made(listing: Listing, monkeypatch: pytest.MonkeyPatch) -> None:
    written = 0
    to_disk = module._to_disk

    def full(file: Any) -> None:
        nonlocal written
        written += 1
        if written > 6:
            raise OSError(28, "No space left on device")
        to_disk(file)

    monkeypatch.setattr(module, "_to_disk", full)
    with pytest.raises(MetarunError, match=r"pictures\.(part|journal) cannot be written \(No space left"):
        prepared("pictures", listing, LOOK)
    monkeypatch.setattr(module, "_to_disk", to_disk)
    store = prepared("pictures", listing, LOOK)
    assert torch.equal(store.images, expected(listing, store.left_out))
