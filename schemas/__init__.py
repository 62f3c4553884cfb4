"""The contract: what is delivered keeps its order, its names and its types for ever, and only gains fields."""
