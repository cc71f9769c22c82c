"""OpenStack's object store with its S3 API, all of it in this one process: FOLDER ACCESS_KEY SECRET_KEY [PORT].

Prints its address when it serves. It ends with the process that started it. Not for production: one replica, one device.
"""

import os
import sys

import eventlet

eventlet.patcher.monkey_patch()

from swift.common import utils  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402

FOLDER, ACCESS_KEY, SECRET_KEY = sys.argv[1:4]
PORT = int(sys.argv[4]) if len(sys.argv) > 4 else 0
KINDS = ("account", "container", "object")


def write(name, text):
    path = os.path.join(FOLDER, name)
    with open(path, "w") as file:
        file.write(text)
    return path


def settings(port):
    return f"""
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
devices = {FOLDER}/devices
swift_dir = {FOLDER}
mount_check = false
log_address = {FOLDER}/none
"""


os.makedirs(f"{FOLDER}/devices/one", exist_ok=True)
write("swift.conf", "[swift-hash]\nswift_hash_path_suffix = test\n[storage-policy:0]\nname = one\ndefault = yes\n")
utils.set_swift_dir(FOLDER)

from swift.common.wsgi import loadapp  # noqa: E402


class NoCache:
    """In place of memcached: nothing is ever found in it."""

    def get(self, *_, **__):
        return None

    def __getattr__(self, _):
        return lambda *_, **__: None


def without_cache(app):
    def handle(env, start_response):
        env["swift.cache"] = NoCache()
        return app(env, start_response)

    return handle


def serve(kind, config, socket):
    path = write(f"{kind}.conf", settings(socket.getsockname()[1]) + config)
    app = loadapp(path, global_conf={"log_name": kind})
    eventlet.spawn(eventlet.wsgi.server, socket, without_cache(app), log_output=False, max_size=64)


for kind in KINDS:
    socket = eventlet.listen(("127.0.0.1", 0))
    builder = RingBuilder(1, 1, 0)
    place = {"ip": "127.0.0.1", "port": socket.getsockname()[1], "device": "one"}
    builder.add_dev({"region": 1, "zone": 1, "weight": 1.0, "meta": "", **place})
    builder.rebalance()
    builder.get_ring().save(f"{FOLDER}/{kind}.ring.gz")
    serve(kind, f"[pipeline:main]\npipeline = server\n[app:server]\nuse = egg:swift#{kind}\n", socket)

socket = eventlet.listen(("127.0.0.1", PORT))
serve(
    "proxy",
    f"""
[pipeline:main]
pipeline = catch_errors s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:s3api]
use = egg:swift#s3api
# Lists of a few already come in pages.
max_bucket_listing = 10
[filter:tempauth]
use = egg:swift#tempauth
user_test_{ACCESS_KEY.split(":")[1]} = {SECRET_KEY} .admin
""",
    socket,
)
print(f"http://127.0.0.1:{socket.getsockname()[1]}", flush=True)
while os.getppid() != 1:
    eventlet.sleep(1)
