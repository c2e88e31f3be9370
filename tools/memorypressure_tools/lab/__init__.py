"""The flood lab: small virtual machines in which the reserve is drained on purpose, with and without killers."""
