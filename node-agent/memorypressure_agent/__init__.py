"""The node agent: sentinel, reporter, run, record, replay."""
