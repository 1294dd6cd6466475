"""Models of calorimeters read out in layers of cells."""
