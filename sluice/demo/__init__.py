"""`sluice demo`: the product at work on this machine, and a ledger that proves that nothing is missing."""
