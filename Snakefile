# The whole recipe as one DAG: `snakemake --cores all` runs configs/laptop.yaml,
# `snakemake --profile cluster --configfile configs/paper.yaml` the paper's size on Slurm.
# Rules call the `qwenlong` command line; each file under workflow/rules opens with its inputs and outputs.

from snakemake.utils import min_version

min_version("9.27")


# Built from cluster/container.def; used only with --software-deployment-method apptainer.
container: "cluster/qwenlong.sif"


include: "workflow/rules/common.smk"


# One run at a time on a results folder; what a killed run left is ended and made again.
processes.protect(workflow, R)
# Commands find the resolved configuration here. It is not a parameter: only the sections that a rule reads rerun it.
shell.prefix(
    # Threads that spin while they wait cost a busy machine more than the work itself.
    f"set -euo pipefail; export OMP_WAIT_POLICY=PASSIVE QWENLONG_CONFIG={shlex.quote(RESOLVED)}"
    f" PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)


localrules:
    all,
    convert,
    evaluate,
    merge,
    ablations,
    rl_stage_1,
    rl_stage_2,
    rl_stage_3,
    rl_stage_4,
    table_2,
    table_4,
    table_5,
    table_7,
    table_8,
    table_9,
    table_10,
    table_11,
    table_12,


rule all:
    default_target: True
    input:
        f"{R}/audit/report.html",
        [f"{R}/tables/{table}/{table}.md" for table in REPORTED],


include: "workflow/rules/corpus.smk"
include: "workflow/rules/generation.smk"
include: "workflow/rules/synthesis.smk"
include: "workflow/rules/base.smk"
include: "workflow/rules/selection.smk"
include: "workflow/rules/data_card.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/checkpoints.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/ablations.smk"
include: "workflow/rules/audit.smk"
include: "workflow/rules/targets.smk"


onstart:
    write_text(RESOLVED, config_files.dump(RUN))
    from qwenlong.core import tracking

    tracking.begin_pipeline(RUN)


onsuccess:
    from qwenlong.core import tracking

    tracking.end_pipeline(RUN, "FINISHED")


onerror:
    from qwenlong.core import tracking

    tracking.end_pipeline(RUN, "FAILED")
