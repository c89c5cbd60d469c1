"""A local copy changes how rows are read, but not their order, their content, or what is forgotten."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from logitlake.pipeline.reading.blocks import lake_fetch
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.reading.reader import RowSetReader
from logitlake.storage.connection.location import LakeLocation
from logitlake.storage.errors import LakeError, SettingsError
from logitlake.storage.identity import recipe_id as id_of_recipe
from logitlake.storage.lake.lake import Lake
from logitlake.storage.row_sets.row_set import resolve_row_set
from logitlake.storage.upkeep.forgetting import forget
from logitlake.storage.writing.commits import commit_unit

RECIPE = {"teacher": {"name": "tiny"}, "tokenizer": "words", "sparsifier": {"name": "varopt"}, "temperature": 1.0}
UNITS = [f"u{number:03d}" for number in range(6)]


@pytest.fixture
def lake(memory_lake):
    rng = np.random.default_rng(5)
    return memory_lake([rng.integers(2, 20, n).tolist() for n in (5, 9, 1, 12, 7, 3)])


@pytest.fixture
def copy(tmp_path):
    return LocalCopy(tmp_path / "copy", dict.fromkeys(UNITS, "all"))


def two_epochs(lake, **options):
    reader = lake.reader(**options)
    return [*reader, *reader]


def files(copy):
    return sorted(copy.directory.iterdir())


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.input_ids.equal(other.input_ids)
        assert one.next_ids.equal(other.next_ids)
        for name in ("offsets", "ids", "probs", "ghost"):
            a, b = getattr(one.targets, name), getattr(other.targets, name)
            assert (a is None and b is None) or (a.dtype == b.dtype and a.equal(b))
        counts = [(batch.n_tokens, batch.n_targets, batch.step_targets) for batch in (one, other)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize("cut_mass", ["renormalise", "ghost"])
@pytest.mark.parametrize("tail", [True, False])
def test_batches_and_their_order_are_the_same_with_and_without_a_copy(memory_lake, copy, cut_mass, tail):
    lake = memory_lake([[5, 17, 2, 9], [30], [4, 8]], tail=tail)
    options = {"cut_mass": cut_mass, "seed": 3, "rank": 1, "world_size": 2, "batch_sequences": 1}
    assert_same(two_epochs(lake, local_copy=copy, **options), two_epochs(lake, **options))


def test_ids_of_any_size_are_kept_whole(memory_lake, copy):
    lake = memory_lake([[40, 40], [40]], vocab=2**18)
    assert_same(two_epochs(lake, local_copy=copy), two_epochs(lake))
    lake = memory_lake([[40, 40], [40]], vocab=250)
    assert_same(two_epochs(lake, local_copy=copy), two_epochs(lake))


def test_weights_draw_the_same_rows_with_a_copy(memory_lake, copy):
    lake = memory_lake([[5, 9, 3], [7, 2]], weights=[1, 0, 4, 2, 1])
    expected = two_epochs(lake, weight="anything")
    assert_same(two_epochs(lake, weight="anything", local_copy=copy), expected)


def test_epochs_after_the_first_read_no_targets_from_the_lake(lake, copy):
    reader = lake.reader(local_copy=copy)
    asked = []
    read = lake.fetch
    reader._rows._read_rows = lambda units, columns: asked.append(columns) or read(units, columns)
    list(reader)
    assert any("target_ids" in columns for columns in asked)
    asked.clear()
    list(reader)
    assert asked and not any("target_ids" in columns for columns in asked)


@pytest.mark.parametrize("where", [3, 20, 90, -20])
def test_a_damaged_copy_is_ignored_and_made_again(lake, copy, where):
    expected = two_epochs(lake)
    list(lake.reader(local_copy=copy))
    for file in files(copy):
        content = bytearray(file.read_bytes())
        content[where] ^= 1
        file.write_bytes(content)
    assert_same(two_epochs(lake, local_copy=LocalCopy(copy.directory, copy._documents)), expected)
    assert_whole(copy)


@pytest.mark.parametrize("length", [0, 7, 40, 500])
def test_a_shortened_copy_is_ignored_and_made_again(lake, copy, length):
    expected = two_epochs(lake)
    list(lake.reader(local_copy=copy))
    for file in files(copy):
        os.truncate(file, length)
    assert_same(two_epochs(lake, local_copy=LocalCopy(copy.directory, copy._documents)), expected)
    assert_whole(copy)


def assert_whole(copy):
    fresh = LocalCopy(copy.directory, copy._documents)
    assert len(files(copy)) == len(UNITS)
    assert all(fresh.load(file.name) is not None for file in files(copy))


WRITER = """
import os, signal, sys
from pathlib import Path
import numpy as np
from logitlake.pipeline.reading.local_copy import LocalCopy
from logitlake.pipeline.targets.decoding import DecodedRows

def rows(value):
    counts = np.full(1000, 3)
    return DecodedRows(places=[0, 1000], bounds=[0, 3000], tokens=np.full(1000, value), counts=counts,
                       ids=np.full(3000, value), probs=np.full(3000, value, np.float32), ghost=None)

copy = LocalCopy(Path(sys.argv[1]), {}, max_bytes=50_000)
if sys.argv[2] != "whole":
    Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    copy.save(sys.argv[2], [rows(1)])
for turn in range(60):
    for value in range(5):
        name = f"unit{value}-x-y.rows"
        found = copy.load(name)
        if found is None:
            copy.save(name, [rows(value)])
        else:
            assert found.tokens.tolist() == [value] * 1000
            assert found.probs.tolist() == [value] * 3000
    copy._checked.clear()
"""


def writer(copy, how):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(copy.directory), how], stderr=subprocess.PIPE)


def test_a_killed_writer_leaves_no_copy_and_its_staging_file_is_removed_later(lake, copy):
    name = copy.name(UNITS[0], lake.units[UNITS[0]], "renormalise")
    killed = writer(copy, name)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    (staged,) = files(copy)
    assert staged.name.startswith(name) and staged.suffix == ".tmp"
    assert copy.load(name) is None
    copy.remove_outdated()
    assert files(copy) == [staged]  # it may be that of a writer at work
    os.utime(staged, (0, 0))
    copy.remove_outdated()
    assert files(copy) == []


def test_two_processes_use_one_folder_and_see_whole_copies_only(copy):
    both = [writer(copy, "whole") for _ in range(2)]
    errors = [process.communicate()[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert 0 < sum(file.stat().st_size for file in files(copy)) <= 2 * 50_000


def test_a_copy_of_one_treatment_of_cut_mass_is_not_used_for_the_other(memory_lake, copy):
    lake = memory_lake([[5, 17, 2, 9]], tail=False)
    list(lake.reader(local_copy=copy, cut_mass="renormalise"))
    ghost = two_epochs(lake, local_copy=copy, cut_mass="ghost")
    assert_same(ghost, two_epochs(lake, cut_mass="ghost"))
    assert all(batch.targets.ghost is not None for batch in ghost)


def test_rows_of_other_content_are_read_again(memory_lake, copy):
    list(memory_lake([[5, 17, 2, 9]], levels=64).reader(local_copy=copy))
    other = memory_lake([[5, 17, 2, 9]], levels=128)
    assert_same(two_epochs(other, local_copy=copy), two_epochs(other))


def test_copies_stay_within_their_size_and_the_ones_not_used_for_longest_go_first(lake, copy):
    list(lake.reader(local_copy=copy))
    sizes = {file.name: file.stat().st_size for file in files(copy)}
    oldest, *others = sorted(sizes)
    for age, name in enumerate(reversed([oldest, *others])):
        os.utime(copy.directory / name, (1000 - age, 1000 - age))
    bounded = LocalCopy(copy.directory, copy._documents, max_bytes=sum(sizes.values()))
    bounded.load(oldest)
    bounded.save(others[-1].replace(UNITS[-1], "new"), lake_chunks(lake))
    left = {file.name for file in files(copy)}
    assert sum(file.stat().st_size for file in files(copy)) <= sum(sizes.values())
    assert others[0] not in left and oldest in left and any(name.startswith("new-") for name in left)


def lake_chunks(lake):
    from logitlake.pipeline.targets.decoding import DecodedTable

    return DecodedTable.of(lake.units[UNITS[2]], cut_mass="renormalise").chunks


def test_a_copy_smaller_than_one_unit_still_gives_the_same_batches(lake, tmp_path):
    copy = LocalCopy(tmp_path / "copy", {}, max_bytes=1)
    assert_same(two_epochs(lake, local_copy=copy), two_epochs(lake))
    assert files(copy) == []


def test_a_size_below_one_byte_and_a_folder_that_can_not_be_made_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="at least 1 byte"):
        LocalCopy(tmp_path, {}, max_bytes=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="name another folder"):
        LocalCopy(tmp_path / "file" / "copy", {})


@pytest.fixture
def real_lake(tmp_path, make_rows):
    location = LakeLocation.resolve(tmp_path / "lake")
    with Lake.create(location, held_out_salt="salt", held_out_share=0.0) as lake:
        for seed in range(2):
            rows = make_rows([9, 4, 6], seed=seed, unit=f"document{seed}", recipe_id=id_of_recipe(RECIPE))
            commit_unit(lake, rows, recipe=RECIPE, run_id="run", seconds=1.0)
        yield lake


def read_all(lake, directory: Path) -> tuple[list[pa.Table], LocalCopy]:
    copy = LocalCopy.open(directory, lake)
    row_set = resolve_row_set(lake, recipe_id=id_of_recipe(RECIPE))
    read = lake_fetch(lake, row_set)
    with_copy = RowSetReader(row_set, read, batch_sequences=2, local_copy=copy)
    return [*with_copy, *with_copy], copy


def test_forgotten_documents_are_never_read_from_a_copy_and_leave_it_at_its_next_use(real_lake, tmp_path):
    copies = tmp_path / "copies"
    before, copy = read_all(real_lake, copies)
    kept = files(copy)
    assert len(kept) == 2
    row_set = resolve_row_set(real_lake, recipe_id=id_of_recipe(RECIPE))
    reader = RowSetReader(row_set, lake_fetch(real_lake, row_set), batch_sequences=2, local_copy=copy)
    forget(real_lake, ["document0-00001"], reason="asked")

    with pytest.raises(LakeError, match="documents were forgotten since"):
        list(reader)
    reopened = LocalCopy.open(copies, real_lake)
    assert len(files(reopened)) == 1  # the other unit's
    after, _ = read_all(real_lake, copies)
    assert sum(batch.n_tokens for batch in after) == sum(batch.n_tokens for batch in before) - 2 * 4


def test_a_copy_in_use_does_not_stop_another_lake_from_having_its_own(real_lake, tmp_path, make_rows):
    _, copy = read_all(real_lake, tmp_path / "copies")
    location = LakeLocation.resolve(tmp_path / "other")
    with Lake.create(location, held_out_salt="salt", held_out_share=0.0) as other:
        commit_unit(other, make_rows([5], recipe_id=id_of_recipe(RECIPE)), recipe=RECIPE, run_id="run", seconds=1.0)
        _, copy_of_other = read_all(other, tmp_path / "copies")
    assert len(files(copy)) == 2
    assert len(files(copy_of_other)) == 1


def test_a_copy_that_can_not_be_written_is_logged_once_and_training_reads_the_shards(lake, copy, caplog):
    copy.directory.rmdir()
    assert_same(two_epochs(lake, local_copy=copy), two_epochs(lake))
    assert [record.getMessage() for record in caplog.records if "can't write" in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_a_copy_that_can_not_be_touched_is_read_all_the_same(lake, copy, monkeypatch):
    epochs = two_epochs(lake, local_copy=copy)

    def read_only(path):
        raise OSError(errno.EROFS, "read-only file system")

    monkeypatch.setattr("logitlake.pipeline.reading.local_copy.os.utime", read_only)
    assert_same(two_epochs(lake, local_copy=copy), epochs)
    assert copy.load(files(copy)[0].name) is not None


def test_cleaning_makes_no_folder_where_no_copy_is(tmp_path):
    with Lake.create(LakeLocation.resolve(tmp_path / "lake"), held_out_salt="s", held_out_share=0.0) as lake:
        LocalCopy.clean(tmp_path / "copy", lake)
        assert not (tmp_path / "copy").exists()
