"""A folder of results: whole or not there, bounded, and never trusted further than it can be checked."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import GoalError
from onnx_lowrank.store import Store

VALUE = {"rows": np.arange(12.0).reshape(3, 4), "name": "svd", "ranks": (1, 2)}


def saved(folder: Path, key: str = "key", value: object = VALUE) -> tuple[Store, Path]:
    store = Store.at(folder)
    store.save(key, "calibrating", 2.5, value)
    return store, max(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)


def test_a_value_comes_back_with_the_seconds_it_took(tmp_path: Path):
    store, _ = saved(tmp_path / "new" / "cache")
    found = store.load("key")
    assert found is not None
    value, seconds = found
    np.testing.assert_array_equal(value["rows"], VALUE["rows"])
    assert (value["name"], value["ranks"], seconds) == ("svd", (1, 2), 2.5)
    assert store.load("another") is None


@pytest.mark.skipif(sys.platform == "win32", reason="has no such modes")
def test_the_folder_is_its_users_alone(tmp_path: Path):
    saved(tmp_path / "cache")
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path: Path, place: float, flip: int):
    store, path = saved(tmp_path)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    found = store.load("key")
    if found is None:
        assert not path.exists()  # made again, and not found damaged a second time
    else:
        np.testing.assert_array_equal(found[0]["rows"], VALUE["rows"])
        assert (found[0]["name"], found[0]["ranks"], found[1]) == ("svd", (1, 2), 2.5)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_that_ends_early_is_removed(tmp_path: Path, share: float):
    store, path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert store.load("key") is None
    assert not path.exists()


def test_damage_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store, path = saved(tmp_path)
    path.write_bytes(b"not a zip")
    with caplog.at_level(logging.WARNING, "onnx_lowrank"):
        assert store.load("key") is None
    assert "is damaged" in caplog.text
    assert "made again" in caplog.text


def test_an_entry_under_the_name_of_another_is_not_taken(tmp_path: Path):
    store, path = saved(tmp_path, "one", {"of": "one"})
    _, other = saved(tmp_path, "other", {"of": "other"})
    assert path != other
    path.write_bytes(other.read_bytes())
    assert store.load("one") is None
    assert store.load("other") is not None


def test_what_numpy_would_unpack_into_memory_is_not_opened(tmp_path: Path):
    store, path = saved(tmp_path)
    np.savez_compressed(path, head=np.zeros(10**6, np.uint8), body=np.zeros(1, np.uint8))
    assert store.load("key") is None


def test_pickles_are_not_opened(tmp_path: Path):
    store, path = saved(tmp_path)
    told = tmp_path / "told"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(told),)

    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    np.save(tmp_path / "bomb.npy", np.array([Bomb()], object), allow_pickle=True)
    parts["0.npy"] = (tmp_path / "bomb.npy").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert store.load("key") is None
    assert not told.exists()


def test_what_was_used_longest_ago_goes_first(tmp_path: Path):
    big = np.zeros(1000)
    store = Store.at(tmp_path, 3 * 9500)
    for number, key in enumerate(["first", "second", "third"]):
        store.save(key, "step", 0, big)
        os.utime(store._place(key), (number, number))
    assert store.load("first") is not None  # and so it was used last
    store.save("fourth", "step", 0, big)
    assert [store.has(key) for key in ("first", "second", "third", "fourth")] == [True, False, True, True]
    assert sum(entry.bytes for entry in store.entries()) <= store.limit


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    store = Store.at(tmp_path, 1000)
    with caplog.at_level(logging.WARNING, "onnx_lowrank"):
        store.save("key", "calibrating", 0, np.zeros(1000))
    assert not list(tmp_path.iterdir())
    assert "larger than the cache may be" in caplog.text


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with caplog.at_level(logging.WARNING, "onnx_lowrank"):
        Store.at(tmp_path).save("key", "calibrating", 0, VALUE)
    assert "No space left on device" in caplog.text
    assert not list(tmp_path.iterdir())


def test_clearing_leaves_what_is_not_ours(tmp_path: Path):
    store, path = saved(tmp_path)
    for name in ("mine.npz", "notes.txt", f"{'é' * 64}.npz"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / ".half.part").write_bytes(b"1234")
    size = path.stat().st_size
    assert store.clear() == size + 4
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["mine.npz", "notes.txt", f"{'é' * 64}.npz"])


def test_files_of_dead_processes_go_and_those_of_living_ones_stay(tmp_path: Path):
    old, new = tmp_path / ".old.part", tmp_path / ".new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    saved(tmp_path)
    assert not old.exists()
    assert new.exists()


def test_entries_are_listed_with_what_they_are(tmp_path: Path):
    store, _ = saved(tmp_path)
    saved(tmp_path, "large", np.zeros(1000))
    damaged = tmp_path / f"{'a' * 64}.npz"
    damaged.write_bytes(b"x")
    found = [(entry.what, entry.seconds) for entry in store.entries()]
    assert found == [("calibrating", 2.5), ("calibrating", 2.5), ("damaged", 0.0)]


def test_a_folder_that_cannot_be_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GoalError, match=r"cannot make the cache folder .*file.*choose another place"):
        Store.at(tmp_path / "file" / "cache")
    with pytest.raises(GoalError, match="cannot make the cache folder"):
        Store.at(tmp_path / "file")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(GoalError, match="permission denied"):
            Store.at(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def _writes(folder: str, number: int) -> None:
    store = Store.at(folder, 60_000)
    for turn in range(30):
        key = f"key {(turn + number) % 5}"
        found = store.load(key)
        if found is not None:
            assert (found[0] == 7.0).all()
        store.save(key, "step", 0.0, np.full(1000, 7.0))


def test_two_processes_may_write_at_once(tmp_path: Path):
    """With a bound so small that they remove each other's entries, too."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_writes, args=(str(tmp_path), number)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert not list(tmp_path.glob(".*"))
    assert 0 < len(list(tmp_path.iterdir())) <= 5
