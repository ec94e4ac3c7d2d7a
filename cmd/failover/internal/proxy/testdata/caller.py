"""A program in Python that knows nothing about failovers.

It does the same work three times, and waits for a line on its standard input in
between: meanwhile the organization fails over, and back.

    python3 caller.py URL-OF-THE-PROXY TOKEN
"""

import json
import sys
import urllib.error
import urllib.request
import uuid

ROOT = sys.argv[1] + "/api/data/v9.2/"
TOKEN = sys.argv[2]

# Ignore proxies in the environment: the organization is reached through this one.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def send(method, url, body=None):
    """Returns the answer, or raises urllib.error.HTTPError."""
    request = urllib.request.Request(url, data=body, method=method, headers={
        "Authorization": "Bearer " + TOKEN,
        "Content-Type": "application/json",
        "Idempotency-Key": str(uuid.uuid4()),
    })
    return opener.open(request, timeout=60)


def page(url):
    """Reads a page and returns the link to the next one, None after the last."""
    with send("GET", url) as answer:
        text = answer.read().decode()
    if "dynamics.com" in text:
        raise SystemExit("a link leads past the proxy: " + text)
    return json.loads(text).get("@odata.nextLink")


def create():
    """Creates an account with a new id, so that the request may be sent twice."""
    key = str(uuid.uuid4())
    try:
        with send("POST", ROOT + "accounts", json.dumps({"accountid": key, "name": "Python"}).encode()) as answer:
            location = answer.headers["OData-EntityId"]
        if location != f"{ROOT}accounts({key})":
            raise SystemExit("not led through the proxy: " + location)
    except urllib.error.HTTPError as refused:
        if refused.code != 412:  # it existed already
            raise
    return key


def upload(round):
    """Uploads 3 MiB in chunks, without a Content-Length."""
    def pieces():
        yield b'{"documentbody":"'
        for _ in range(3 << 10):
            yield b"x" * 1024
        yield b'"}'
    send("PATCH", f"{ROOT}annotations({uuid.UUID(int=round)})", pieces()).close()


link = page(ROOT + "accounts?$select=name")  # continue after the failover
for round in range(3):
    if round:
        print("ready", flush=True)
        sys.stdin.readline()
    upload(round)
    with send("GET", f"{ROOT}accounts({create()})") as answer:
        assert json.load(answer)["name"] == "Python"
    while link:
        link = page(link)
    link = page(ROOT + "accounts?$select=name")
print("done", flush=True)
