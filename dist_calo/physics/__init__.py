"""What a shower looks like, in the terms of the field."""
