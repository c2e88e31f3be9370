"""Counts failed page allocations in the kernel log, where the chart's `agent.kernelLog` allows that: evidence only."""
