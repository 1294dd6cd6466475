"""How fast training is on how many ranks: plans of measurements, the measurements, a cost model, a report."""
