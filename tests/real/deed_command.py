"""A command that writes down each event of its batch, as `deeds.py` does it.

It knows of an event what stands in its line of stdin and nothing else.
"""

import json
import os
import sys


def main() -> None:
    path = os.path.join(os.environ["DEEDS"], os.environ["TREMULA_HOOK_HANDLER"])
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for line in sys.stdin:
        event = json.loads(line)
        revision = event["id"].rpartition("-")[2]
        mark = "1" if event.get("triggered") else "-"
        os.write(file, f"{revision} {event['type']} {mark} {os.environ['NODE']}\n".encode())


if __name__ == "__main__":
    main()
