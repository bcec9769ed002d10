"""What torchao makes other packages say does not stand before an answer; real warnings do."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib.util import find_spec

import pytest

from wamkit.acceleration.torchao_messages import NOISE, silence_torchao

SAID = {
    "torch.utils._pytree": "<enum 'KernelPreference'> is an Enum subclass and is now supported",
    "torchao": "Skipping import of cpp extensions due to incompatible torch version",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
}


def test_known_messages_are_dropped_and_others_of_the_same_loggers_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    silence_torchao()
    silence_torchao()  # again: nothing piles up
    assert SAID.keys() == NOISE.keys()
    for name, text in SAID.items():
        logger = logging.getLogger(name)
        logger.addHandler(caplog.handler)  # some of them hand nothing to the root
        logger.warning(text)
        logger.warning("a tensor of the file was left out")
        logger.removeHandler(caplog.handler)
        ours = [
            known
            for known in logger.filters
            if type(known).__module__ == "wamkit.acceleration.torchao_messages"
        ]
        assert len(ours) == 1
    assert set(caplog.messages) == {"a tensor of the file was left out"}


@pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed")
def test_a_command_that_imports_diffusers_prints_only_its_answer() -> None:
    args = [sys.executable, "-m", "wamkit", "show", "vae", "ltx", "--params"]
    done = subprocess.run(args, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "934,976,434" in done.stdout
