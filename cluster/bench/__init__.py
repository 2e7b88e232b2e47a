"""Measuring a running cluster through the ordinary client: `cluster bench`."""
