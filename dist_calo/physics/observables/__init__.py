"""What is measured of each shower, by read-out, and its sums over a sample."""
