"""Attacks on the commands, with random damage and kills; `docs/reliability.md` has their results.

Each script prints a table of what was tried and what happened, and exits with 1 where anything was
lost, wrong, silent or endless.
"""
