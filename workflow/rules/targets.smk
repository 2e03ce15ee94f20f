# Names for parts of the DAG, as in `snakemake --cores all evaluate`.
# The rules corpus, synthesis, data_card, memory_rl and audit are targets by themselves.

for stage in SCORED_STAGES:

    rule:
        name:
            f"rl_stage_{stage[-1]}"
        input:
            f"{R}/stages/{stage}/policy",


rule merge:
    input:
        rules.sce_merge.output,


rule convert:
    input:
        [f"{R}/models/{stage}" for stage in RL_STAGES],


rule evaluate:
    input:
        EVALUATIONS,
        [f"{R}/tables/{table}/{table}.md" for table in CHOSEN if table not in layout.ABLATION_TABLES],


rule ablations:
    input:
        ABLATIONS,
        [f"{R}/tables/{table}/{table}.md" for table in CHOSEN if table in layout.ABLATION_TABLES],


# What one table of the paper needs, and nothing else.
for table in layout.TABLES:

    rule:
        name:
            table.replace("table", "table_")
        input:
            f"{R}/tables/{table}/{table}.md",
