"""Base model, selection, AEPO and memory RL: pure mathematics one file each; verl in `verl_plugin`."""
