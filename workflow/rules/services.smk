# Services of the configuration for jobs that hold GPUs: each answers before such a job is submitted, and ends when the
# last lease is gone. A lease is a job's own, so that one job that is rerun reruns no other. What holds no GPUs starts
# its services itself (`served` in common.smk).
#
# In:  the configuration
# Out: R/state/services/<service>/leases/<job>.job.json   removed when its job is done
#      R/state/services/<service>/service.json            where the service is, while it runs


rule lease:
    output:
        temp(f"{R}/state/services/{{service}}/leases/{{job}}.job.json"),
    log:
        f"{R}/logs/services/{{service}}/{{job}}.log",
    benchmark:
        f"{R}/benchmarks/services/{{service}}-{{job}}.tsv"
    wildcard_constraints:
        service="|".join(RUN.services) or "$none",
        job="[a-z0-9_-]+",
    threads: 1
    resources:
        **need("light"),
    params:
        code=code_digest("serving"),
    shell:
        'qwenlong serve {wildcards.service:q} --config "$QWENLONG_CONFIG" --lease {output:q} > {log:q} 2>&1'
