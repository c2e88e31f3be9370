"""`make scale`: what the operator costs on clusters of 100 to 5,000 nodes with 22 pods each, on a real API server."""
