"""What Flower runs."""

import os

from deployed_parts import make_client, make_server

from equifed.deploy import flower


client = flower.client_app(make_client)
server = flower.server_app(make_server, timeout=float(os.environ.get("TIMEOUT", 600)))
