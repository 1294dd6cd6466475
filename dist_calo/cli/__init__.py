"""The commands: each module parses a command line, calls, and prints."""
