"""Adapters between this project and verl 0.9: out of tree, registered in `register`, started by `launch`."""
