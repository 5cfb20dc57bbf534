"""What docs/generate.py writes into the pages, a module for each kind of reference."""
