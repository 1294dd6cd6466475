"""Making samples of showers, on all ranks."""
