"""Signs of life of ranks, their meeting, and the end of a job by a failure."""
