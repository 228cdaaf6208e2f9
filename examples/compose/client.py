"""A program that knows nothing of CNM: it fetches a page by name every few seconds, and prints what it gets."""

import sys
import time
import urllib.request

url = sys.argv[1]
while True:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # what the command line names
            print(f"{url} says {reply.status}: {reply.read(60)!r}", flush=True)
    except OSError as error:
        print(f"{url}: {error}", flush=True)
    time.sleep(2)
