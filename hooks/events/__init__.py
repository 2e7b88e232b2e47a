"""The cluster's own event types, and what people and handlers see of an event."""
