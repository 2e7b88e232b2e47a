"""From tables and decorators to handler definitions, with every problem found at once."""
