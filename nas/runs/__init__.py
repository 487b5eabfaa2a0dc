"""Runs: the whole job in one folder, stage by stage: tables, supernet, search, candidates, final table."""
