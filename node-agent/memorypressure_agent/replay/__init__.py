"""`memorypressure-agent replay`: what a policy would have decided over a recording."""
