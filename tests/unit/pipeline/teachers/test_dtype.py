from pathlib import Path

import pytest
import torch

from logitlake.pipeline.teachers import dtype
from logitlake.pipeline.teachers.devices import resolve_device
from logitlake.storage.errors import SettingsError


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_a_dtype_that_is_named_is_taken_wherever_it_runs(name: str) -> None:
    assert dtype.resolve_dtype(name, "cuda:3") == name


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 sse\n", "bfloat16"),
        ("flags\t\t: fpu amx_bf16\n", "bfloat16"),
        ("Features\t: fp asimd bf16\n", "bfloat16"),
        ("flags\t\t: fpu avx2 avx512f\nmodel name\t: bf16\n", "float32"),
    ],
)
def test_a_cpu_computes_in_bfloat16_only_if_its_flags_say_so(
    cpuinfo: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(dtype, "_CPU_INFO", tmp_path / "cpuinfo")
    assert dtype.resolve_dtype("auto", "cpu") == expected


def test_without_a_list_of_flags_the_cpu_computes_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtype, "_CPU_INFO", tmp_path / "none")
    assert dtype.resolve_dtype("auto", "cpu") == "float32"


def test_auto_is_a_device_of_this_machine() -> None:
    assert resolve_device("auto").type in ("cuda", "npu", "mps", "xpu", "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(SettingsError, match=r"cuda:1.*auto or cpu"):
        resolve_device("cuda:1")
