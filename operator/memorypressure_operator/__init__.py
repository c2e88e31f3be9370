"""The operator: policies in, plans, grants, taints and evictions out."""
