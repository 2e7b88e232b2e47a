"""What a publish may ask for beyond its place in the log: once, not after, later."""
