"""Each rule stops at its step and no earlier, healthy runs never, a resumed detector says what an unbroken one does."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenlong.core.config import DivergenceConfig
from qwenlong.training.divergence import Detector, Diverged
from qwenlong.training.verl_plugin.checkpoint import finish
from qwenlong.training.verl_plugin.guard import Guard


def metrics(reward=0.5, entropy=0.2, gradient=0.3, truncated=0.1, loss=0.01):
    return {
        "reward/mean": reward,
        "aepo/entropy": entropy,
        "actor/grad_norm": gradient,
        "rollout/truncated_share": truncated,
        "actor/pg_loss": loss,
    }


def run(detector, steps):
    """Feed steps, return the first verdict with its step."""
    for step, values in enumerate(steps, 1):
        verdict = detector.update(step, values)
        if verdict is not None:
            return verdict
    return None


HEALTHY = [metrics()] * 6
SHORT = {"window": 2, "patience": 3}


@pytest.mark.parametrize("key", ["loss", "gradient", "entropy"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_stops_at_once(key, value):
    verdict = run(Detector(DivergenceConfig(**SHORT)), [*HEALTHY, metrics(**{key: value})])
    assert (verdict.rule, verdict.step, verdict.since) == ("nonfinite", 7, 7)
    assert str(value) in verdict.text
    off = Detector(DivergenceConfig(**SHORT, nonfinite=False))
    assert run(off, [*HEALTHY, metrics(**{key: math.nan})]) is None


def rollouts(correlation, gap):
    return metrics() | {
        "training/rollout_actor_probs_pearson_corr": correlation,
        "training/rollout_probs_diff_mean": gap,
    }


def test_rollouts_of_other_weights_stop_at_once():
    # Measured: one step whose rollouts came from another run's weights, among steps of its own.
    own, others = rollouts(0.9998, 0.0009), rollouts(0.9443, 0.0136)
    verdict = run(Detector(DivergenceConfig()), [own, own, others, own])
    assert (verdict.rule, verdict.step, verdict.since) == ("rollout", 3, 3)
    assert "0.9443" in verdict.text and "0.014" in verdict.text and verdict.remedy
    assert run(Detector(DivergenceConfig()), [rollouts(0.9949, 0.0043)] * 3) is None
    assert run(Detector(DivergenceConfig()), [rollouts(0.5, 0.001)] * 3) is None  # sure of every token
    assert run(Detector(DivergenceConfig(rollout_correlation=None)), [others] * 3) is None
    assert run(Detector(DivergenceConfig()), [others]).step == 1


@pytest.mark.parametrize(
    ("rule", "bad", "since", "spell"),
    [
        # Means of two steps: the reward's is (0.5 + 0.0) / 2 at step 7 and falls below 0.1 at step 8.
        ("reward", {"reward": 0.0}, 8, 3),
        # (0.2 + 4.0) / 2 = 2.1 at step 7 is already above max(10 x 0.2, 1).
        ("entropy", {"entropy": 4.0}, 7, 1),
        ("grad_norm", {"gradient": 2e4}, 7, 2),
        # (0.1 + 1) / 2 at step 7 is not yet 0.98.
        ("truncated", {"truncated": 1.0}, 8, 3),
    ],
)
def test_a_rule_stops_after_patience_steps_in_a_row(rule, bad, since, spell):
    steps = [*HEALTHY, *[metrics(**bad)] * 8]
    verdict = run(Detector(DivergenceConfig(**SHORT)), steps)
    assert (verdict.rule, verdict.since, verdict.step) == (rule, since, since + 2)
    assert verdict.remedy and "patience 3" in verdict.text
    key = {"reward": "reward_share", "entropy": "entropy_multiple", "truncated": "truncated_share"}.get(rule, rule)
    assert run(Detector(DivergenceConfig(**SHORT, **{key: None})), steps) is None
    # `spell` bad steps hold the rule for two steps; a good one between two spells begins the count anew.
    broken = [*HEALTHY, *[metrics(**bad)] * spell, *HEALTHY, *[metrics(**bad)] * spell, *HEALTHY]
    assert run(Detector(DivergenceConfig(**SHORT)), broken) is None


def test_a_fall_from_a_reward_that_was_noise_is_none():
    steps = [metrics(reward=0.09)] * 6 + [metrics(reward=0.0)] * 20
    assert run(Detector(DivergenceConfig(**SHORT)), steps) is None
    assert run(Detector(DivergenceConfig(**SHORT, reward_floor=0.05)), steps).rule == "reward"


def test_an_entropy_that_rises_from_nearly_nothing_is_healthy():
    steps = [metrics(entropy=0.001)] * 6 + [metrics(entropy=0.9)] * 20
    assert run(Detector(DivergenceConfig(**SHORT)), steps) is None
    assert run(Detector(DivergenceConfig(**SHORT, entropy_floor=0.0)), steps).rule == "entropy"


def test_a_policy_that_never_ended_its_responses_is_not_called_diverged():
    assert run(Detector(DivergenceConfig(**SHORT)), [metrics(truncated=1.0)] * 40) is None


def test_the_paper_s_own_curve_and_a_run_of_skipped_steps_are_healthy():
    # Figure 11: entropy between 0.117 and 0.28; rewards that wander; steps of which nothing was left to learn.
    steps = [
        metrics(reward=0.4 + 0.15 * math.sin(i), entropy=0.2 + 0.08 * math.sin(i / 7), gradient=0.0 if i % 3 else 0.8)
        for i in range(400)
    ]
    assert run(Detector(DivergenceConfig()), steps) is None
    assert run(Detector(DivergenceConfig()), [{}] * 100) is None


VALUES = st.builds(
    metrics,
    reward=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    entropy=st.sampled_from([0.0, 0.2, 3.0, 9.0]),
    gradient=st.sampled_from([0.0, 0.5, 1e5]),
    truncated=st.sampled_from([0.0, 0.5, 1.0]),
)


@settings(max_examples=200, deadline=None)
@given(
    before=st.lists(VALUES, max_size=12),
    after=st.lists(VALUES, min_size=1, max_size=12),
    window=st.integers(1, 4),
    patience=st.integers(1, 4),
)
def test_a_resumed_detector_goes_on_like_an_unbroken_one(before, after, window, patience):
    config = DivergenceConfig(window=window, patience=patience)
    whole, first, second = Detector(config), Detector(config), Detector(config)
    for step, values in enumerate(before, 1):
        assert whole.update(step, values) == first.update(step, values)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step, values in enumerate(after, len(before) + 1):
        assert second.update(step, values) == whole.update(step, values)
    assert second.state_dict() == whole.state_dict() and second.since == whole.since


@pytest.mark.parametrize("state", [None, {}, {"recent": 1, "start": {}, "best": None, "since": {}}, {"recent": {}}])
def test_a_strange_state_is_refused_and_changes_nothing(state):
    detector = Detector(DivergenceConfig())
    detector.update(1, metrics())
    before = json.dumps(detector.state_dict())
    with pytest.raises(ValueError, match="not a divergence state"):
        detector.load_state_dict(state)
    assert json.dumps(detector.state_dict()) == before


def checkpoint(root, step):
    folder = root / f"global_step_{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text("w")
    return folder


def test_the_error_names_step_values_and_the_last_good_checkpoint(tmp_path):
    guard = Guard(DivergenceConfig(**SHORT), tmp_path)
    for step in range(1, 7):
        assert guard.verdict(step, metrics()) is None
    assert guard.back_to is None
    for step in (4, 6, 9):
        folder = checkpoint(tmp_path, step)
        guard.save(folder)
        finish(folder)
    verdicts = [guard.verdict(step, metrics(gradient=5e4)) for step in (7, 8)]
    assert verdicts == [None, None] and guard.back_to == 6
    error = guard.error(guard.verdict(9, metrics(gradient=5e4)))
    assert isinstance(error, Diverged) and error.exit_code == 1 and error.reason == "grad_norm"
    text = str(error)
    # Step 9's checkpoint is newer, but the run had gone wrong by then; step 7 found the weights of step 6 at fault.
    for part in ("step 9", "since step 7", "5e+04", "1e+04", "global_step_4", "learning_rate", "training.divergence"):
        assert part in text, text
    nothing = guard.error(Detector(DivergenceConfig()).update(3, metrics(loss=math.nan)))
    assert "No checkpoint is known to be good" in str(nothing) and "save_every" in str(nothing)


def test_a_checkpoint_carries_the_history_and_older_ones_have_none(tmp_path):
    first = Guard(DivergenceConfig(**SHORT), tmp_path)
    for step, values in enumerate([*HEALTHY, metrics(gradient=5e4), metrics(gradient=5e4)], 1):
        assert first.verdict(step, values) is None
    folder = checkpoint(tmp_path, 8)
    first.save(folder)
    second = Guard(DivergenceConfig(**SHORT), tmp_path)
    second.load(folder)
    assert second.verdict(9, metrics(gradient=5e4)).since == 7
    third = Guard(DivergenceConfig(**SHORT), tmp_path)
    third.load(checkpoint(tmp_path, 9))
    assert third.verdict(9, metrics(gradient=5e4)) is None
    off = Guard(None, tmp_path)
    off.load(folder)
    assert off.verdict(1, metrics(loss=math.nan)) is None and off.back_to is None
