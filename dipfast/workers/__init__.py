"""The workers of a run: one for each device, with its pipeline, and what drives them here, on Ray and on SLURM."""
