"""A flood on a node of a real cluster, and what came of it: load, run, evidence, verdict.

`load` describes the pods, `workloads` creates and replaces them, `run` carries one flood out, `measurements` reads what
was recorded and `verdict` judges it (both pure), `series` repeats runs and counts the void ones.
"""
