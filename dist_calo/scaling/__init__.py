"""Study of training on growing numbers of ranks: plans of measurements, the measurements, a cost model, a report."""
