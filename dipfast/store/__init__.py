"""The folder of a run: its records, the index over them, its lock, its copy on object storage, and its merging."""
