"""Starts httpbin on loopback, as httpbin.org, for tests that ask it.

The certificate is made here and now, so no key is in any image. Its authority is added to the
bundle that is named on the command line, to the bundles that old versions of requests carry, and to
that of the tests' own certifi.
"""

import glob
import os
import socket
import subprocess
import sys
import time

import certifi
import trustme

NAMES = ["httpbin.org", "www.httpbin.org", "www.google.co.uk", "localhost", "127.0.0.1"]

bundle = sys.argv[1]
place = os.path.dirname(bundle)
os.makedirs(place, exist_ok=True)
authority = trustme.CA()
certificate = authority.issue_cert(*NAMES)
certificate.private_key_and_cert_chain_pem.write_to_path(os.path.join(place, "server.pem"))
root = authority.cert_pem.bytes()
with open(certifi.where(), "rb") as source, open(bundle, "wb") as target:
    target.write(source.read() + b"\n" + root)
testbed = "/opt/miniconda3/envs/testbed/lib/python*/site-packages"
for old in ["/testbed/requests/cacert.pem", f"{testbed}/requests/cacert.pem", f"{testbed}/certifi/cacert.pem"]:
    for path in glob.glob(old):
        with open(path, "ab") as target:
            target.write(b"\n" + root)

server = [sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "httpbin:app"]
secure = ["--certfile", os.path.join(place, "server.pem"), "--keyfile", os.path.join(place, "server.pem")]
environment = {"PATH": "/usr/bin:/bin", "HOME": place}
for port, options in [(80, []), (443, secure)]:
    subprocess.Popen(
        [*server, "--bind", f"127.0.0.1:{port}", *options],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
deadline = time.monotonic() + 60
for port in [80, 443]:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            if time.monotonic() > deadline:
                sys.exit(f"httpbin does not answer on port {port}")
            time.sleep(0.05)
