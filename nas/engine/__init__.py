"""The search loop: proposals, evaluation in this process or on workers, the ledger, the result."""
