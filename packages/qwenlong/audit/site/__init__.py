"""The site over a bundle: numbers of several seeds and scales beside the paper's."""
