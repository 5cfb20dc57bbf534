"""The command line: parses, calls one function of ``ftreg.api`` or one method of the registry, and prints."""
