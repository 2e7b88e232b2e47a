"""Consumer groups: members, partitions and leases, completion, dead letters, replays.

`pubsub/groups.py` is the way in for everybody outside.
"""
