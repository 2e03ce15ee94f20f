"""Agent loops: one call in full-context RL, one row per turn in memory RL. Rewards are computed here."""

from __future__ import annotations

import json
import math
from typing import Any
from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register

from qwenlong.core import templates
from qwenlong.core.seeds import derive
from qwenlong.core.tokens import Tokenizer
from qwenlong.training.rollout_log import digest

_CACHE: dict[str, Any] = {}


class _QwenlongLoop(AgentLoopBase):
    """What both loops share: tokens in, tokens out, reward."""

    @property
    def settings(self) -> Any:
        return self.config.data.qwenlong

    @property
    def tokens(self) -> Tokenizer:
        folder = str(self.settings.tokenizer)
        if folder not in _CACHE:
            _CACHE[folder] = Tokenizer(folder)
        return _CACHE[folder]  # type: ignore[no-any-return]

    def _judge(self) -> Any:
        endpoint = self.settings.get("judge")
        if endpoint is None:
            return None
        if "judge" not in _CACHE:
            from omegaconf import OmegaConf

            from qwenlong.training.verl_plugin import judging

            workers = int(self.config.actor_rollout_ref.rollout.agent.num_workers)
            settings: Any = OmegaConf.to_container(endpoint)
            _CACHE["judge"] = judging.client(settings, workers)
        return _CACHE["judge"]

    def _together(self, first: bool, last: bool) -> dict[str, Any]:
        """Return what the CPU's rollout server is told of the other requests of this step (see its module).

        With several servers none of them knows its share.
        """
        rollout, trainer = self.rollout_config, self.config.trainer
        if rollout.name != "hf_cpu" or int(trainer.n_gpus_per_node) * int(trainer.nnodes) > 1:
            return {}
        wave = int(self.config.data.train_batch_size) * int(rollout.n) if first else 0
        return {"wave": wave, "follows": not last}

    async def _call(
        self, prompt_ids: list[int], sampling: dict[str, Any], limit: int, together: dict[str, Any], *seed: object
    ) -> tuple[Any, str, bool]:
        """Return verl's output, the text without the end token, and whether the limit cut it off."""
        params = dict(sampling, max_tokens=limit, seed=derive(int(self.settings.seed), *seed) % 2**31, **together)
        out = await self.server_manager.generate(request_id=uuid4().hex, prompt_ids=prompt_ids, sampling_params=params)
        ids = list(out.token_ids)
        eos = self.tokens.eos_id
        truncated = not ids or ids[-1] != eos
        return out, self.tokens.decode(ids if truncated else ids[:-1]), truncated

    async def _reward(self, payload: dict[str, Any], response: str) -> dict[str, Any]:
        from qwenlong.core.llm.usage import counted
        from qwenlong.rewards.service import reward

        judge = self._judge()
        with counted() as usage:
            result = await reward(
                payload["task"],
                response,
                payload["answers"],
                question=payload["question"],
                judge=judge,
                patience=None if judge is None else judge.endpoint.patience_seconds,
                answer_prefix=payload["answer_prefix"],
            )
        dropped = bool(result.dropped) or not math.isfinite(result.value)
        return {
            "reward": 0.0 if dropped else float(result.value),
            "dropped": dropped,
            "judged": result.asked,
            "judge_requests": usage.requests,
        }

    def _output(
        self, prompt_ids: list[int], out: Any, info: dict[str, Any], sample: str, truncated: bool
    ) -> AgentLoopOutput:
        # What is this call's own: verl gives the reward's information of the last turn to all turns.
        call = {"sample": sample, "truncated": truncated, "sha256": digest(out.token_ids)}
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=list(out.token_ids),
            response_mask=[1] * len(out.token_ids),
            response_logprobs=list(out.log_probs) if out.log_probs else None,
            reward_score=info["reward"],
            num_turns=2,
            metrics={"num_preempted": 0},
            extra_fields={
                **out.extra_fields,
                "turn_scores": [],
                "tool_rewards": [],
                "reward_extra_info": info,
                "call": call,
            },
        )


@register("qwenlong_single")
class SingleLoop(_QwenlongLoop):
    """Full-context RL: one prompt, one response."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """Return the row of one rollout."""
        payload = json.loads(kwargs["payload"])
        step, session = int(kwargs["global_steps"]), int(kwargs["session_id"])
        out, text, truncated = await self._call(
            payload["prompt_ids"],
            sampling_params,
            int(self.settings.max_output_tokens),
            self._together(first=True, last=True),
            "rollout", step, kwargs["uid"], session,
        )  # fmt: skip
        response = f"<think>\n{text}" if payload["opens_thinking"] else text
        info = await self._reward(payload, response)
        info |= {"truncated": truncated, "turns": 1}
        return self._output(payload["prompt_ids"], out, info, payload["id"], truncated)


@register("qwenlong_memory")
class MemoryLoop(_QwenlongLoop):
    """Memory RL: the memory agent's own loop, each turn a row with its own prompt; one reward for all of them."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:
        """Return the rows of one trajectory, the final answer last."""
        from qwenlong.memory_agent.chunking import split
        from qwenlong.memory_agent.loop import Turn, fold
        from qwenlong.memory_agent.prompting import Prompts

        payload = json.loads(kwargs["payload"])
        step, session = int(kwargs["global_steps"]), int(kwargs["session_id"])
        memory = self.settings.memory
        prompts = Prompts(tokenizer=self.tokens)
        chunks = split(prompts.safe(payload["context"]), self.tokens, int(memory.chunk_tokens))
        outputs: list[tuple[list[int], Any, bool]] = []

        async def generate(messages: list[dict[str, str]], max_tokens: int, turn_index: int) -> Turn:
            prompt = self.tokens.render_chat(messages)
            ids = self.tokens.encode(prompt)
            out, text, truncated = await self._call(
                ids,
                sampling_params,
                max_tokens,
                self._together(first=turn_index == 0, last=turn_index == len(chunks)),
                "memory", step, kwargs["uid"], session, turn_index,
            )  # fmt: skip
            outputs.append((ids, out, truncated))
            response = f"<think>\n{text}" if templates.opens_thinking(prompt) else text
            return Turn(
                text=response,
                finish_reason="length" if truncated else "stop",
                prompt_ids=ids,
                response_ids=list(out.token_ids),
                log_probs=list(out.log_probs or []),
            )

        result = await fold(
            payload["question"],
            payload["instruction"],
            chunks,
            generate,
            tokenizer=self.tokens,
            memory_tokens=int(memory.memory_tokens),
            answer_tokens=int(memory.answer_tokens),
            prompts=prompts,
        )
        info = await self._reward(payload, result.response)
        info |= {"truncated": any(cut for _, _, cut in outputs), "turns": len(outputs)}
        return [self._output(ids, out, dict(info), payload["id"], cut) for ids, out, cut in outputs]


__all__ = ["MemoryLoop", "SingleLoop"]
