"""What the tests run inside of Ray: says which machine gave each GPU, then waits for a word if told to."""

import os
import socket
import sys
import time
from pathlib import Path

import ray

ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)


@ray.remote(num_gpus=1, num_cpus=1, max_retries=0)
def look() -> str:
    time.sleep(1)  # long enough that one machine cannot take both
    return f"{socket.gethostname()}:{os.environ['TMPDIR']}:{os.environ.get('NCCL_DEBUG', '')}"


@ray.remote(num_gpus=1, num_cpus=1, max_retries=0)
def stay() -> None:
    time.sleep(600)


print("seen", *sorted(ray.get([look.remote(), look.remote()])), flush=True)
if len(sys.argv) > 1:
    Path(sys.argv[1]).touch()
    ray.get([stay.remote(), stay.remote()])
