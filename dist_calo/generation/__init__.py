"""Generation of samples of showers, on all ranks."""
