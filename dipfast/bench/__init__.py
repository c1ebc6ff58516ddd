"""Benchmarks of the fit: contracts in `bench/README.md`. They need torch and the fit, and no manifest."""
