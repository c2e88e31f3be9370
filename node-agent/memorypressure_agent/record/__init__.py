"""`memorypressure-agent record`: a recording of this machine that replay reads."""
