"""Numbers that compare two samples, with their errors and floors."""
