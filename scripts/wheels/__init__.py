"""What scripts/wheelhouse.py is made of: standard library and pip only, for machines where nothing is installed."""
