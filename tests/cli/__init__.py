"""End-to-end tests of the command line, in subprocesses."""
