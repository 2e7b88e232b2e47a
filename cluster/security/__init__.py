"""Who may talk to whom: the cluster's certificate authority and the TLS contexts made of it."""
