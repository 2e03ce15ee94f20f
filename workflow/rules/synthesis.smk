# Samples of the five tasks, with answers computed from the documents.
#
# In:  R/corpus/documents.parquet; what generation.smk makes, where it is switched on
# Out: R/tokenizer/                                                      a Hugging Face tokenizer with its chat template
#      R/synthesis/{samples,heldout,heldout_long,memory}.parquet         Sample records
#      R/synthesis/documents.parquet                                     the documents that they use
#      R/synthesis/funnel.json                                           what was made, dropped and kept, by reason


rule tokenizer:
    input:
        documents=rules.corpus.output.documents,
        weights=BASE_FILES,
    output:
        directory(f"{R}/tokenizer"),
    log:
        f"{R}/logs/tokenizer.log",
    benchmark:
        f"{R}/benchmarks/tokenizer.tsv"
    retries: tries("light")
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("training.tokenizer"),
        config=settings(
            "base.kind",
            "base.path",
            "base.revision",
            "base.scratch.vocabulary",
            "data_seed",
        ),
        corpus=subpath(input.documents, parent=True),
    shell:
        'qwenlong train tokenizer --config "$QWENLONG_CONFIG" --corpus {params.corpus:q} --out {output:q}'
        " > {log:q} 2>&1"


rule synthesis:
    input:
        documents=rules.corpus.output.documents,
        tokenizer=rules.tokenizer.output,
        candidates=CANDIDATES,
        edges=EDGES,
    output:
        samples=f"{R}/synthesis/samples.parquet",
        heldout=f"{R}/synthesis/heldout.parquet",
        heldout_long=f"{R}/synthesis/heldout_long.parquet",
        memory=f"{R}/synthesis/memory.parquet",
        documents=f"{R}/synthesis/documents.parquet",
        funnel=report(
            f"{R}/synthesis/funnel.json",
            caption="../report/funnel.rst",
            category="Data",
        ),
    log:
        f"{R}/logs/synthesis.log",
    benchmark:
        f"{R}/benchmarks/synthesis.tsv"
    retries: tries("light")
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("synthesis"),
        config=settings("synthesis", "data_seed", "base.window", "llm.generator"),
        benchmarks=lambda wildcards: [
            (one.model_dump_json(), listing_digest(one.path)) for one in RUN.corpus.decontaminate
        ],
        folder=subpath(output.samples, parent=True),
        corpus=subpath(input.documents, parent=True),
        more=[word for file in CANDIDATES for word in ("--candidates", file)]
        + [word for file in EDGES for word in ("--edges", file)],
    shell:
        'qwenlong synthesize run --config "$QWENLONG_CONFIG" --corpus {params.corpus:q}'
        " --tokenizer {input.tokenizer:q} --out {params.folder:q} {params.more:q} > {log:q} 2>&1"
