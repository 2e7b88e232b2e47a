"""What the cluster knows about hooks: operations of the state machine, and reads of its tables."""
