"""What verl 0.9 needs to train on CPUs: a platform, a plain gloo group, an FSDP2 engine, a rollout server.

Out of tree, no fork. Loaded in every process by verl itself through VERL_USE_EXTERNAL_MODULES (see
`verl_plugin.launch`); the order is platform, engine, rollout.
"""
