"""verl itself accepts the committed configurations of the paper's run, without a GPU and without the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from published import SHAPE
from qwenlong.core import config_files
from qwenlong.core.config import RL_STAGES
from qwenlong.training.verl_plugin.launch import environment

pytestmark = pytest.mark.engines

# In a process of its own: verl reads its platform at import.
CHECK = """
import json, sys
from pathlib import Path
from omegaconf import OmegaConf
from qwenlong.core.errors import ConfigError
from qwenlong.training.verl_plugin import expand, register
from verl.trainer.ppo.core_algos import get_policy_loss_fn
from verl.utils.config import omega_conf_to_dataclass

folder, model = Path(sys.argv[1]), sys.argv[2]
out = {}
for file in sorted(folder.glob("*.yaml")):
    whole = OmegaConf.load(file)
    expand.validate(whole, file.stem)
    actor = omega_conf_to_dataclass(whole.actor_rollout_ref.actor)
    rollout = omega_conf_to_dataclass(whole.actor_rollout_ref.rollout)
    whole.actor_rollout_ref.model.update({"path": model, "load_tokenizer": False})
    shape = omega_conf_to_dataclass(whole.actor_rollout_ref.model).hf_config
    out[file.stem] = {
        "sp": actor.engine.ulysses_sequence_parallel_size,
        "strategy": actor.engine.strategy,
        "loss": get_policy_loss_fn(actor.policy_loss.loss_mode).__module__,
        "rollout": type(rollout).__name__,
        "attention": shape._attn_implementation,
        "experts": shape._experts_implementation,
    }
broken = {}
for key, value in {
    "actor_rollout_ref.actor.loss_agg_mode": "median",
    "actor_rollout_ref.model.use_remove_padding": False,
    "actor_rollout_ref.rollout.expert_parallel_size": 3,
    "actor_rollout_ref.actor.fsdp_config.no_such_key": 1,
}.items():
    whole = OmegaConf.load(folder / "rl_3.yaml")
    OmegaConf.update(whole, key, value, force_add=True)
    try:
        expand.validate(whole, "rl_3")
        broken[key] = ""
    except ConfigError as error:
        broken[key] = str(error)
from torch.distributed import distributed_c10d
minutes = distributed_c10d._get_default_timeout(distributed_c10d.Backend.NCCL).total_seconds() / 60
print(json.dumps([out, broken, minutes]))
"""


def test_verl_accepts_every_stage_and_refuses_what_is_wrong(root, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    done = subprocess.run(
        [sys.executable, "-c", CHECK, "configs/expanded/paper", str(tmp_path)],
        cwd=root, capture_output=True, text=True, timeout=560,
        env=os.environ | environment(config_files.load(root / "configs" / "paper.yaml")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    accepted, refused, minutes = json.loads(done.stdout.splitlines()[-1])
    assert accepted == {
        name: {
            "sp": 8,
            "strategy": "fsdp2",
            "loss": "qwenlong.training.verl_plugin.loss",
            "rollout": "RolloutConfig",
            "attention": "flash_attention_2",
            "experts": "grouped_mm",
        }
        for name in sorted(RL_STAGES)
    }
    # Each process of the run waits this long in a collective: every group is opened with this default.
    assert minutes == 120
    # The check is none that lets everything pass.
    assert all(text.startswith("rl_3: verl does not accept") for text in refused.values()), refused
