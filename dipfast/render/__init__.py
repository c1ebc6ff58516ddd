"""A stored or exported generator to its picture: one, those of a run again, or many variants of one."""
