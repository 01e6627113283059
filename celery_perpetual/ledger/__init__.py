"""The ledger of unfinished items."""
