"""A federation of real sites: what the server and each site do, and the messages between them (over Flower)."""
