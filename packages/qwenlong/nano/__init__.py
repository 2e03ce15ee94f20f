"""The nano policy that a clone comes with: data, training from nothing, measurement, card."""
