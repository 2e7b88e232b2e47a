"""The Python client of a cluster."""

from cluster.client.client import Client, Entry, Page, open_client
from cluster.client.connector import Endpoint
from cluster.client.options import ClientOptions
from cluster.client.subscription import Start, Subscription

__all__ = [
    "Client",
    "ClientOptions",
    "Endpoint",
    "Entry",
    "Page",
    "Start",
    "Subscription",
    "open_client",
]
