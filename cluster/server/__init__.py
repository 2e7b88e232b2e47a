"""The client port of a node."""

from cluster.server.limits import ServerLimits
from cluster.server.node import ServedNode
from cluster.server.server import Extra, Server, ServerStatistics

__all__ = ["Extra", "ServedNode", "Server", "ServerLimits", "ServerStatistics"]
