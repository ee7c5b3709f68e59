"""Luigi tasks: which flows run, in what order, after what."""
