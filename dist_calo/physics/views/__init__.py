"""What validation looks at, by read-out."""
