"""Items onto devices: the plan, what will come of it, and the run from a manifest to committed records."""
