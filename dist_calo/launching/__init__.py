"""Place of this process among the ranks of a job, and the start of ranks."""
