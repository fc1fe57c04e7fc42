"""A client's script: it is started once, and answers until the job ends."""

import sys

from deployed_parts import make_client

from equifed.deploy import nvflare


if __name__ == "__main__":
    client = make_client({"method": sys.argv[1]})
    nvflare.answer(client, lambda site: {"partition-id": int(site[-1]) - 1})
