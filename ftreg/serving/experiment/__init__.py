"""Experiments: assignment of users to variants, the record of their requests, statistics, and the report."""
