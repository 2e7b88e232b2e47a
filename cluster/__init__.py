"""The node: Raft, state machine, protocol, client, command line, security, configuration."""

from typing import Final

__version__: Final = "0.1.0"
VERSION: Final = __version__
