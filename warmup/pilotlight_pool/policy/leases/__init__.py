"""Who holds what: life cycles, terms, the ledger, and what agents report."""
