"""What the agent touches on the host: kernel files, pods' cgroups, clocks, the journal. Needs only core."""
