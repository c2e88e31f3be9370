"""`memorypressure-agent run`: the agent on one machine without a cluster."""
