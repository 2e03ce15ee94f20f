# What language models add to synthesis; each rule is there only when the configuration switches it on.
#
# In:  R/corpus/documents.parquet; endpoints of the configuration
# Out: R/generation/mase/{candidates.jsonl,funnel.json}                  questions of the agents (synthesis.mase.enabled)
#      R/generation/nl2sql/{candidates.jsonl,funnel.json}                questions with SQL (synthesis.nl2sql.enabled)
#      R/generation/extract/{edges.jsonl,graph.graphml,funnel.json}      triples for the graph (synthesis.extract.enabled)
# R/state/generation/<rule>/ keeps journals and replies: Snakemake deletes what an incomplete job has put out, and what
# was paid for must outlive that. The same command goes on there.

# What synthesis takes up.
CANDIDATES = []
EDGES = []

if RUN.synthesis.mase.enabled:

    rule mase:
        input:
            documents=rules.corpus.output.documents,
        output:
            candidates=f"{R}/generation/mase/candidates.jsonl",
            funnel=report(
                f"{R}/generation/mase/funnel.json",
                caption="../report/funnel.rst",
                category="Data",
            ),
        log:
            f"{R}/logs/mase.log",
        benchmark:
            f"{R}/benchmarks/mase.tsv"
        retries: tries("ask")
        threads: cpus("ask")
        resources:
            **need("ask"),
        params:
            code=code_digest("synthesis", "rewards"),
            config=settings(
                "synthesis.mase",
                "synthesis.heldout_share",
                "synthesis.split_seed",
                "llm.generator",
                "data_seed",
            ),
            folder=subpath(output.candidates, parent=True),
            corpus=subpath(input.documents, parent=True),
            journal=f"{R}/state/generation/mase",
            served=served("synthesis.mase", "llm.generator"),
        shell:
            '{params.served} qwenlong synthesize mase --config "$QWENLONG_CONFIG" --corpus {params.corpus:q} --out {params.folder:q}'
            " --journal {params.journal:q} > {log:q} 2>&1"

    CANDIDATES.append(rules.mase.output.candidates)


if RUN.synthesis.extract.enabled:

    rule extract:
        input:
            documents=rules.corpus.output.documents,
        output:
            edges=f"{R}/generation/extract/edges.jsonl",
            graph=f"{R}/generation/extract/graph.graphml",
            funnel=report(
                f"{R}/generation/extract/funnel.json",
                caption="../report/funnel.rst",
                category="Data",
            ),
        log:
            f"{R}/logs/extract.log",
        benchmark:
            f"{R}/benchmarks/extract.tsv"
        retries: tries("ask")
        threads: cpus("ask")
        resources:
            **need("ask"),
        params:
            code=code_digest("synthesis"),
            config=settings("synthesis.extract", "llm.generator", "data_seed"),
            folder=subpath(output.edges, parent=True),
            corpus=subpath(input.documents, parent=True),
            journal=f"{R}/state/generation/extract",
            served=served("synthesis.extract", "llm.generator"),
        shell:
            '{params.served} qwenlong synthesize extract --config "$QWENLONG_CONFIG" --corpus {params.corpus:q} --out {params.folder:q}'
            " --journal {params.journal:q} > {log:q} 2>&1"

    EDGES.append(rules.extract.output.edges)


if RUN.synthesis.nl2sql.enabled:

    rule nl2sql:
        input:
            documents=rules.corpus.output.documents,
        output:
            candidates=f"{R}/generation/nl2sql/candidates.jsonl",
            funnel=report(
                f"{R}/generation/nl2sql/funnel.json",
                caption="../report/funnel.rst",
                category="Data",
            ),
        log:
            f"{R}/logs/nl2sql.log",
        benchmark:
            f"{R}/benchmarks/nl2sql.tsv"
        retries: tries("ask")
        threads: cpus("ask")
        resources:
            **need("ask"),
        params:
            code=code_digest("synthesis"),
            config=settings(
                "synthesis.nl2sql",
                "synthesis.sql",
                "synthesis.heldout_share",
                "synthesis.split_seed",
                "llm.generator",
                "data_seed",
            ),
            folder=subpath(output.candidates, parent=True),
            corpus=subpath(input.documents, parent=True),
            journal=f"{R}/state/generation/nl2sql",
            served=served("synthesis.nl2sql", "llm.generator"),
        shell:
            '{params.served} qwenlong synthesize nl2sql --config "$QWENLONG_CONFIG" --corpus {params.corpus:q} --out {params.folder:q}'
            " --journal {params.journal:q} > {log:q} 2>&1"

    CANDIDATES.append(rules.nl2sql.output.candidates)
