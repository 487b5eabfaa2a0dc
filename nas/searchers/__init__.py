"""Searchers: one file each, all with ``ask`` and ``tell`` (``nas.searchers.searcher``)."""
