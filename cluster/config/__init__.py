"""Configuration of a node: read once at the start, checked as a whole, frozen afterwards."""

from cluster.config.address import Address, parse_address
from cluster.config.load import load, located
from cluster.config.models import NodeConfig
from cluster.config.problems import ConfigError

__all__ = ["Address", "ConfigError", "NodeConfig", "load", "located", "parse_address"]
