"""The jobs of a configuration with what each costs: graph, sizes and rates put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qwenlong.audit.planning import graph, sizes
from qwenlong.audit.planning.arithmetic import NOTHING, Job, Range, Speed, Tokens, exactly
from qwenlong.audit.planning.assumed import Assumptions, Kinds, Model
from qwenlong.core.config import Config, EndpointConfig, StageConfig
from qwenlong.core.errors import UsageError

GIB = 2**30


@dataclass(frozen=True)
class Planned:
    """Jobs with what must be known to read them."""

    jobs: tuple[Job, ...]
    unit: str
    """What `width` counts: "GPU", or "core" where the configuration runs on CPUs."""
    default: int
    """Processors that the configuration itself is made for."""
    corpus: sizes.Corpus
    models: Mapping[str, Model]
    """Rates used, by the role of the model."""
    spread: tuple[str, ...] = ()
    """Stages that train or select."""


def plan(config: Config, assumptions: Assumptions, counted: Mapping[str, int] | None = None) -> Planned:
    """Return the jobs of a whole run. `counted`: the corpus as it was made, where it was.

    Raises ConfigError where an assumption about a model or a benchmark is missing.
    """
    return _Planner(config, assumptions, counted).planned()


class _Planner:
    def __init__(self, config: Config, assumptions: Assumptions, counted: Mapping[str, int] | None) -> None:
        self.config, self.a = config, assumptions
        self.gpu = config.engine.platform == "cuda"
        self.corpus = sizes.corpus(config, assumptions, counted)
        b = config.base
        name = {"hf": b.path or "", "smollm2": "SmolLM2-135M"}.get(b.kind, "nano")
        self.policy = assumptions.model(name, "base.path" if b.kind == "hf" else "base.kind")
        if self.policy.core == self.gpu:
            raise UsageError(
                f"engine.platform = {config.engine.platform}, but the rates of {self.policy.match} are a "
                f"{'CPU core' if self.policy.core else 'GPU'}'s; give the other ones, --assumptions FILE"
            )
        self.models = {"policy": self.policy}
        for role in ("generator", "reward_judge", "evaluation_judge"):
            endpoint: EndpointConfig | None = getattr(config.llm, role)
            if endpoint is not None:
                self.models[role] = assumptions.model(endpoint.model, f"llm.{role}.model")

    def planned(self) -> Planned:
        nodes = graph.nodes(self.config, self.a)
        jobs = tuple(self._job(node) for node in nodes)
        default = self._width("train") if self.gpu else max(1, *(job.width for job in jobs))
        stages = tuple(dict.fromkeys(node.stage for node in nodes if node.kind in ("train", "select")))
        return Planned(jobs, "GPU" if self.gpu else "core", default, self.corpus, self.models, stages)

    def _width(self, kind: graph.Kind) -> int:
        r, e = self.config.resources, self.config.engine
        wanted = getattr(r, kind) or r.generate
        if not self.gpu:
            return int(wanted.cpus)
        if kind == "train":
            return e.nodes * e.gpus_per_node
        server = {"generate": self.config.evaluation.server, "select": self.config.selection.server}.get(kind)
        if server is not None:
            # The job itself holds none.
            service = self.config.services[server]
            return max(1, service.replicas * service.gpus_each)
        if kind in ("light", "merge"):
            return int(wanted.gpus * wanted.nodes)
        return max(1, wanted.gpus * wanted.nodes)

    def _seconds(self, kinds: Kinds) -> Range:
        return kinds.gpu if self.gpu else kinds.core

    def _chain(self, tokens: Range) -> Range:
        return tokens.per(self._seconds(self.a.overheads.stream)) * (1 / 3600)

    def _job(self, node: graph.Node) -> Job:
        job = Job(node.name, node.stage, node.parents, self._width(node.kind))
        light = self.a.overheads.light * (1 / 3600)
        if node.kind == "merge":
            return self._files(job)
        if node.kind == "train":
            return self._base(job) if node.name == "base" else self._train(job, node)
        if node.kind == "select":
            return self._select(job, node)
        if node.kind == "generate":
            tokens, chain = sizes.evaluation(self.config, self.a, node.benchmark, node.agent)
            made = self._asks(job, tokens, chain)
            return replace(made, disk=tokens.response * self.a.disk.response_token * 1e-9)
        if node.rule in ("score_evaluation", "score_ablation"):
            return self._scores(replace(job, fixed=light), node)
        if node.name in ("corpus", "mase", "extract", "nl2sql"):
            return self._generator(replace(job, fixed=light), node.name)
        if node.name == "synthesis":
            number = self.config.synthesis.samples_per_task * len(self.config.synthesis.tasks)
            return replace(job, fixed=light + self.a.overheads.per_sample * number * (1 / 3600))
        return replace(job, fixed=light)

    def _speed(self, role: str) -> Speed:
        return self.models[role].speed

    def _files(self, job: Job) -> Job:
        o, parameters = self.a.overheads, self.policy.parameters
        hours = (o.light + o.per_billion_parameters * (parameters / 1e9)) * (1 / 3600)
        return replace(job, fixed=hours, disk=exactly(parameters * self.a.disk.parameter_model / 1e9))

    def _base(self, job: Job) -> Job:
        # A Hugging Face model is copied, a made one warmed up: no tokens that are counted.
        model = exactly(self.policy.parameters * self.a.disk.parameter_model / 1e9)
        width = self._width("generate") if self.gpu else job.width
        return replace(job, width=width, fixed=self.a.overheads.base * (1 / 3600), disk=model)

    def _stage(self, node: graph.Node) -> StageConfig:
        c = self.config
        return c.ablation(node.model) if node.name.startswith("ablation_") else c.stage(node.model)

    def _train(self, job: Job, node: graph.Node) -> Job:
        stage, o, d = self._stage(node), self.a.overheads, self.a.disk
        tokens = sizes.training(self.config, self.a, stage)
        speed = self._speed("policy")
        trains = Tokens(trained=tokens.trained, trained_at=tokens.trained_at)
        writes = replace(tokens, trained=NOTHING)
        longest = exactly(stage.max_output_tokens)
        if stage.memory is not None:
            targets = self.config.synthesis.memory_length_targets
            m = stage.memory
            _, _, longest, _ = sizes.agent(self.a, max(targets), m.chunk_tokens, m.memory_tokens, m.answer_tokens)
        chain = self._chain(o.tail * longest if stage.memory is None else longest) * stage.steps
        start = self._seconds(o.train_start) + self._seconds(o.step) * stage.steps
        made = replace(
            job,
            work=trains.hours(speed),
            answers=writes.hours(speed),
            chain=chain,
            fixed=start * (1 / 3600),
            prompt=tokens.prompt,
            response=tokens.response,
            trained=tokens.trained,
            disk=exactly(self.policy.parameters * d.parameter_policy / 1e9),
            scratch=exactly(self.policy.parameters * d.parameter_checkpoint * d.checkpoints / 1e9),
        )
        if "reward_judge" not in self.models:
            return made
        rollouts = stage.steps * stage.batch_prompts * stage.group_size
        return self._judged(made, "reward_judge", rollouts * self.a.calls.judged_rollouts, holds=True)

    def _select(self, job: Job, node: graph.Node) -> Job:
        c, s = self.config, self.config.selection
        if node.name == "verification":
            tokens, limit = sizes.verification(c, self.a), s.max_new_tokens
        elif node.name == "difficulty":
            tokens, limit = sizes.difficulty(c, self.a), s.max_new_tokens
        else:
            stage = c.stage(node.model)
            tokens, limit = sizes.score(c, self.a, stage), stage.max_output_tokens
        return self._asks(job, tokens, self.a.overheads.tail * limit)

    def _asks(self, job: Job, tokens: Tokens, chain: Range) -> Job:
        return replace(
            job,
            answers=tokens.hours(self._speed("policy")),
            chain=self._chain(chain),
            fixed=self._seconds(self.a.overheads.generate_start) * (1 / 3600),
            prompt=tokens.prompt,
            response=tokens.response,
        )

    def _scores(self, job: Job, node: graph.Node) -> Job:
        calls = sizes.judged(self.config, self.a, node.benchmark)
        return self._judged(job, "evaluation_judge", calls, holds=False) if calls.high else job

    def _judged(self, job: Job, role: str, calls: Range, holds: bool) -> Job:
        c, model = self.a.calls, self.models[role]
        each = Tokens(c.judge_prompt, c.judge_prompt.typical, c.judge_response, c.judge_prompt.typical)
        served = calls * each.hours(model.speed)
        return replace(job, judge_calls=calls, served=served, served_by=model.replica_gpus, holds=holds)

    def _generator(self, job: Job, rule: str) -> Job:
        o, d = self.a.overheads, self.a.disk
        if rule == "corpus":
            read = self.corpus.tokens * self.a.lengths.characters_per_token
            job = replace(
                job,
                fixed=job.fixed + read * o.per_gib * (1 / GIB / 3600),
                disk=self.corpus.tokens * d.text_token * 1e-9,
            )
            if not self.config.corpus.judge_filter:
                return job
        calls, prompt, response = sizes.generated(self.config, self.a, rule, self.corpus)
        own: EndpointConfig | None = {
            "mase": self.config.synthesis.mase.proposer,
            "extract": self.config.synthesis.extract.endpoint,
            "nl2sql": self.config.synthesis.nl2sql.endpoint,
        }.get(rule)
        model = self.models.get("generator") if own is None else self.a.model(own.model, f"synthesis.{rule}")
        if model is None:
            raise UsageError(f"{rule} needs llm.generator = {{base_url, model}}; name an endpoint, or switch it off")
        hours = calls * Tokens(prompt, prompt.typical, response, prompt.typical).hours(model.speed)
        job = replace(job, calls=calls, prompt=calls * prompt, response=calls * response)
        if model.core == self.gpu or not self.gpu:
            # A server that is no part of the cluster.
            return replace(job, served=hours, served_by=model.replica_gpus)
        return replace(job, width=model.replica_gpus, answers=hours, fills=True)
