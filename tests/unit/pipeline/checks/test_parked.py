from pathlib import Path

import pytest
import torch

from logitlake.pipeline.checks.parked import parked


def test_what_was_parked_comes_back_bit_by_bit_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = torch.randn(30, 7, dtype=torch.float64).log_softmax(-1)
    whole[3, 2], whole[4, 1] = torch.nan, -torch.inf
    lists = [list(whole.split(lengths)) for lengths in ([1] * 12 + [18], [30], [0, 29, 1])]
    with parked() as place:
        for number, tensors in enumerate(lists):
            place.put(number, tensors)
        for number, tensors in reversed(list(enumerate(lists))):
            found = place.take(number)
            assert len(found) == len(tensors)
            for one, other in zip(found, tensors, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(tmp_path.iterdir()) == []
