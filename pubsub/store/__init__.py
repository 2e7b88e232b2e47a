"""The event store: an index beside the log, and the questions that it answers."""
