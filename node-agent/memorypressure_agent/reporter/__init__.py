"""The reporter: the half of the agent with a token. It writes orders, sends status, serves metrics."""
