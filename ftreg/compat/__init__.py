"""What ftreg uses of other libraries beyond their public interface: one module for each, with a test for each function.

An upgrade that breaks something here fails in ``tests/compat``, by the function's name. The linter (ruff's ``SLF001``
and ``TID251``) keeps private names out of the rest of ftreg.
"""
