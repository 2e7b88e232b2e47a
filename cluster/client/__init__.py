"""The Python client of a cluster."""

from cluster.client.client import Client, Entry, Page, open_client
from cluster.client.connector import Endpoint
from cluster.client.consumer import Consumer
from cluster.client.delivery import Delivery
from cluster.client.event_store import EventFilter, EventPage
from cluster.client.group import Group
from cluster.client.hooks import Handled, Hooks
from cluster.client.options import ClientOptions
from cluster.client.publishing import DelayedEvent
from cluster.client.subscription import Start, Subscription

__all__ = [
    "Client",
    "ClientOptions",
    "Consumer",
    "DelayedEvent",
    "Delivery",
    "Endpoint",
    "Entry",
    "EventFilter",
    "EventPage",
    "Group",
    "Handled",
    "Hooks",
    "Page",
    "Start",
    "Subscription",
    "open_client",
]
